"""Canaries: keys, prompts and upstream bodies must be in no log, no metric and no error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.rig import RawClient, RelayProcess, Reset, Upstream, Upstreams, config, get, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request

CLIENT_KEY = "sk-canary-client-key-0123456789abcdef"
UPSTREAM_KEY = "sk-canary-upstream-key-0123456789abcdef"
PROMPT = "canary-prompt-of-the-user"
ANSWER = "canary-answer-of-the-model"
INTERNAL = "canary-internal-host.example"
HEADER = "canary-header-value"
QUERY = "canary-query-string"
ORGANISATION = "org-canary0123456789"

EVERYWHERE = (CLIENT_KEY, UPSTREAM_KEY, PROMPT, HEADER, QUERY)
"""Must be in nothing that anyone but the upstream sees."""


def leak(message: str) -> dict[str, Any]:
    masked = f"{UPSTREAM_KEY[:8]}***{UPSTREAM_KEY[-4:]}"
    text = f"{message}: {UPSTREAM_KEY} ({masked}) of {ORGANISATION} said {PROMPT}"
    return {"error": {"message": text, "type": "x", "param": None, "code": None}}


@scenario
async def test_no_secret_leaves_by_a_log_a_metric_or_an_error(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    answer_event = say.delta({"content": ANSWER})
    scripts = [
        say.sse([say.ROLE, answer_event, say.FINISH, say.DONE]),
        *(say.plain(status, leak(str(status))) for status in (401, 402, 403, 429, 500, 503)),
        say.plain(200, leak("in a 200")),
        say.sse([say.event(leak("first event"))]),
        say.sse([answer_event], Reset()),
        say.plain(200, leak("page")["error"]["message"].encode(), content_type=b"text/html"),
    ]
    async with Upstream() as upstream:
        upstreams: Upstreams = {
            f"u{number}": {"base_url": upstream.base_url, "api_keys": [UPSTREAM_KEY]}
            for number in range(len(scripts))
        }
        models = {
            f"m{number}": {"pool": [{"upstream": f"u{number}"}]} for number in range(len(scripts))
        }
        keys = [{"id": "canary", "key": CLIENT_KEY, "limits": {"rpm": 1000}}]
        fields = config(upstreams, models, keys)
        async with RelayProcess(fields, tmp_path) as relay:
            seen: list[bytes] = []
            for number, script in enumerate(scripts):
                upstream.then(script)
                async with await RawClient.connect(relay.address) as client:
                    body = chat_body(model=f"m{number}", messages=messages)
                    head = {"X-Canary": HEADER, "Cookie": HEADER}
                    whole = request(
                        "POST",
                        f"/v1/chat/completions?x={QUERY}",
                        body,
                        key=CLIENT_KEY,
                        headers=head,
                    )
                    answer = await client.ask(whole)
                seen.append(answer.body + repr(answer.headers).encode())
                await relay.call_of(answer)
            for body in (b'{"%s' % PROMPT.encode(), b'{"model":"%s"}' % PROMPT.encode()):
                async with await RawClient.connect(relay.address) as client:
                    whole = request("POST", "/v1/chat/completions", body, key=CLIENT_KEY)
                    seen.append((await client.ask(whole)).body)
            for head in ({"Authorization": f"Bearer {CLIENT_KEY}x"}, {"X-Bad": "\x01"}):
                async with await RawClient.connect(relay.address) as client:
                    whole = request("GET", f"/v1/{QUERY}?{QUERY}", key=None, headers=head)
                    seen.append((await client.ask(whole)).body)
            metrics = await get(relay.admin, "/metrics", key=None)
            status = await get(relay.admin, "/status.json", key=None)
            public = b"\n".join(seen)

        said = {"stdout": relay.stdout, "stderr": relay.stderr, "metrics": metrics.body.decode()}
        said["status"] = status.body.decode()
        for place, text in (said | {"answers": public.decode("latin-1")}).items():
            for canary in EVERYWHERE:
                # An unknown URL may be named in the answer to it; its query string never is.
                shown = text.replace(f"/v1/{QUERY}", "") if place == "answers" else text
                if canary == PROMPT and place == "answers":
                    continue
                assert canary not in shown, f"{canary} in {place}"
        for place, text in said.items():
            for canary in (ANSWER, INTERNAL, ORGANISATION):
                assert canary not in text, f"{canary} in {place}"
        assert ORGANISATION.encode() not in public
        assert UPSTREAM_KEY[-4:].encode() + b")" not in public


@scenario
async def test_an_error_event_of_the_upstream_is_scrubbed(tmp_path: Path) -> None:
    fault = say.event(leak("CUDA error"))
    async with Upstream(say.sse([*say.EVENTS[:3], fault, say.DONE])) as upstream:
        fields = {"base_url": upstream.base_url, "api_keys": [UPSTREAM_KEY]}
        async with RelayProcess(config({"a": fields}), tmp_path) as relay:
            answer = await relay.chat()

            error = json.loads(answer.events[-1][6:])["error"]
            assert "CUDA error" in error["message"]
            assert UPSTREAM_KEY not in error["message"]
            assert ORGANISATION not in error["message"]
            assert "***" not in error["message"] or UPSTREAM_KEY[-4:] not in error["message"]


@scenario
async def test_a_bad_configuration_is_reported_without_its_secrets(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        good = config({"a": {"base_url": upstream.base_url, "api_keys": [UPSTREAM_KEY]}})
        async with RelayProcess(good, tmp_path) as relay:
            keys = [{"id": "x", "key": CLIENT_KEY, "hash": CLIENT_KEY, "limts": {}}]
            relay.write(good | {"keys": keys, "upstreams": {"a": {"api_keys": UPSTREAM_KEY}}})
            relay.reload()
            await relay.log(lambda line: "reload" in str(line.get("event")))
            status = (await get(relay.admin, "/status.json", key=None)).body.decode()

        assert "keys[0].hash" in status
        assert CLIENT_KEY not in status
        assert UPSTREAM_KEY not in status
        assert CLIENT_KEY not in relay.stderr
        assert UPSTREAM_KEY not in relay.stderr
