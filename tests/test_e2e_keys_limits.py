"""Keys, what they may use, and limits that are exact."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Gate, RawClient, RelayProcess, Send, Upstream, chat, config, get, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import Answer, chat_body, request

HASHED = "sk-a-key-that-only-its-hash-is-written-down"
DIGEST = "sha256:" + hashlib.sha256(HASHED.encode()).hexdigest()
DURATION = re.compile(r"(\d+h)?(\d+m)?(\d+(\.\d+)?s)?(\d+(\.\d+)?(ms|µs))?")


def keys(**limits: object) -> list[dict[str, Any]]:
    return [{"id": "limited", "key": "sk-limited-0123456789abcdef", "limits": limits}]


async def limited(relay: RelayProcess, **fields: Any) -> Answer:
    return await relay.chat(key="sk-limited-0123456789abcdef", **fields)


# --- keys -------------------------------------------------------------------------------------


@scenario
async def test_a_key_is_known_by_its_hash(tmp_path: Path) -> None:
    known = [{"id": "hashed", "hash": DIGEST}]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, known), tmp_path) as relay,
    ):
        answer = await relay.chat(key=HASHED)
        wrong = await relay.chat(key=DIGEST)

        assert answer.text == say.TEXT
        assert (await relay.call_of(answer))["key"] == "hashed"
        assert (wrong.status, wrong.error["code"]) == (401, "invalid_api_key")


UNUSABLE = {
    "no header": ("", None),
    "an empty one": ("Bearer ", None),
    "another scheme": ("Basic c2stdGVzdA==", None),
    "no scheme": ("sk-limited-0123456789abcdef", None),
    "a wrong key": ("Bearer sk-nobody-0123456789abcdef", "invalid_api_key"),
    "two keys": (
        "Bearer sk-limited-0123456789abcdef sk-limited-0123456789abcdef",
        "invalid_api_key",
    ),
    "a key in another case": ("Bearer SK-LIMITED-0123456789ABCDEF", "invalid_api_key"),
    "bytes that are no text": ("Bearer \xff\xfe\x80", "invalid_api_key"),
    "a very long key": ("Bearer " + "k" * 7000, "invalid_api_key"),
}


@pytest.mark.parametrize("case", UNUSABLE)
@scenario
async def test_a_call_without_a_good_key_is_refused_and_never_sent_on(
    tmp_path: Path, case: str
) -> None:
    header, code = UNUSABLE[case]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys()), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        head = {"Authorization": header}
        answer = await client.ask(
            request("POST", "/v1/chat/completions", chat_body(), key=None, headers=head)
        )

        assert answer.status == 401
        assert answer.error["code"] == code
        assert answer.error["type"] == "invalid_request_error"
        assert answer.error["param"] is None
        assert "x-should-retry" not in answer.headers
        assert not upstream.exchanges


@scenario
async def test_the_scheme_is_read_in_any_case(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys()), tmp_path) as relay,
    ):
        answer = await relay.chat(
            key=None, headers={"authorization": "bEARER sk-limited-0123456789abcdef"}
        )

        assert answer.status == 200


@scenario
async def test_expired_keys_foreign_addresses_and_models_are_refused(tmp_path: Path) -> None:
    known: list[dict[str, Any]] = [
        {"id": "old", "key": "sk-old-0123456789abcdef", "expires": "2020-01-01"},
        {"id": "far", "key": "sk-far-0123456789abcdef", "allow_ips": ["192.0.2.0/24"]},
        {"id": "near", "key": "sk-near-0123456789abcdef", "allow_ips": ["127.0.0.9/32"]},
        {"id": "narrow", "key": "sk-narrow-0123456789abcdef", "models": ["deep-*", "gpt-?"]},
    ]
    pool = {"pool": [{"upstream": "a"}]}
    models = {"m": pool, "deep-chat": pool, "gpt-4": pool, "gpt-40": pool}
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, models, known), tmp_path) as relay,
    ):
        old = await relay.chat(key="sk-old-0123456789abcdef")
        far = await relay.chat(key="sk-far-0123456789abcdef")
        near = await relay.chat(key="sk-near-0123456789abcdef", source="127.0.0.9")
        behind = await relay.chat(
            key="sk-far-0123456789abcdef", headers={"X-Forwarded-For": "192.0.2.7"}
        )
        untold = await relay.chat(key="sk-near-0123456789abcdef")
        allowed = [
            await relay.chat(key="sk-narrow-0123456789abcdef", model=m)
            for m in ("deep-chat", "gpt-4")
        ]
        hidden = await relay.chat(key="sk-narrow-0123456789abcdef", model="gpt-40")
        unknown = await relay.chat(key="sk-narrow-0123456789abcdef", model="no-such-model")

        assert (old.status, old.error["code"]) == (401, "invalid_api_key")
        assert "expired" in old.error["message"]
        assert (far.status, far.error["code"]) == (401, "ip_not_authorized")
        assert near.status == 200
        assert behind.status == 200, "a trusted proxy tells the address"
        assert untold.status == 401, "and where it tells none, there is none"
        assert [item.status for item in allowed] == [200, 200]
        for answer in (hidden, unknown):
            assert (answer.status, answer.error["code"]) == (404, "model_not_found")
            assert answer.error["param"] == "model"
        named = hidden.error["message"].replace("gpt-40", "no-such-model")
        assert named == unknown.error["message"], "nothing to enumerate"


# --- rates ------------------------------------------------------------------------------------


@scenario
async def test_of_a_thousand_parallel_calls_on_rpm_10_exactly_ten_are_admitted(
    tmp_path: Path,
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys(rpm=10)), tmp_path) as relay,
    ):
        clients = [await RawClient.connect(relay.address) for _ in range(1000)]
        whole = request(
            "POST",
            "/v1/chat/completions",
            chat_body(stream=False),
            key="sk-limited-0123456789abcdef",
        )
        go = asyncio.Event()

        async def one(client: RawClient) -> Answer:
            await go.wait()
            async with client:
                return await client.ask(whole, 30)

        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(one(client)) for client in clients]
            go.set()
        answers = [call.result() for call in calls]

        # The bucket refills one call in 6 s; the burst is over long before.
        assert Counter(item.status for item in answers) == {200: 10, 429: 990}
        assert len(upstream.exchanges) == 10
        for answer in answers:
            if answer.status == 429:
                assert answer.error["type"] == "requests"
                assert answer.error["code"] == "rate_limit_exceeded"
                assert 1 <= int(answer.headers["retry-after"]) <= 6
                assert answer.headers["x-should-retry"] == "true"


@scenario
async def test_rate_limit_headers_tell_the_callers_own_limits_on_every_answer(
    tmp_path: Path,
) -> None:
    known = [
        *keys(rpm=60, tpm=100_000),
        {"id": "free", "key": "sk-free-0123456789abcdef"},
        {"id": "counted", "key": "sk-counted-0123456789abcdef", "limits": {"rpm": 60}},
    ]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, known), tmp_path) as relay,
    ):
        stream = await limited(relay)
        plain = await limited(relay, stream=False)
        error = await limited(relay, model="nothing")
        free = await relay.chat(key="sk-free-0123456789abcdef")
        counted = await relay.chat(key="sk-counted-0123456789abcdef")

        for answer in (stream, plain, error):
            head = answer.headers
            assert head["x-ratelimit-limit-requests"] == "60"
            assert head["x-ratelimit-limit-tokens"] == "100000"
            assert 0 <= int(head["x-ratelimit-remaining-requests"]) < 60
            assert 0 <= int(head["x-ratelimit-remaining-tokens"]) <= 100_000
            for name in ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"):
                assert DURATION.fullmatch(head[name]), head[name]
        assert stream.headers["x-ratelimit-remaining-requests"] == "59"
        assert plain.headers["x-ratelimit-remaining-requests"] == "58"
        assert not [name for name in free.headers if name.startswith("x-ratelimit")]
        told = [name for name in counted.headers if name.startswith("x-ratelimit")]
        assert len(told) == 3
        assert all(name.endswith("-requests") for name in told)


@scenario
async def test_tokens_are_reserved_and_settled_to_what_was_reported(tmp_path: Path) -> None:
    used = {"prompt_tokens": 10, "completion_tokens": 300, "total_tokens": 310}
    script = say.sse([*say.EVENTS[:-1], say.usage_event(used), say.DONE])
    async with (
        Upstream(script) as upstream,
        RelayProcess(config({"a": upstream}, None, keys(tpm=2000)), tmp_path) as relay,
    ):
        answers: list[Answer] = []
        while not answers or answers[-1].status == 200:
            answers.append(await limited(relay, max_tokens=500))
            await relay.call_of(answers[-1])
        never = await limited(relay, max_tokens=5000)

        # Reservations of at least 500 would let 3 calls through, uses of 310 let 6; what was reserved while
        # the bucket was full is not given back, so that a refund never passes the limit of the minute.
        assert 5 <= len(upstream.exchanges) <= 6
        refused = answers[-1]
        assert (refused.status, refused.error["type"]) == (429, "tokens")
        assert refused.error["code"] == "rate_limit_exceeded"
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-should-retry"] == "true"
        assert never.status == 429
        assert "retry-after" not in never.headers
        assert never.headers["x-should-retry"] == "false"


@scenario
async def test_concurrent_calls_are_bounded_and_a_permit_comes_back_at_the_end(
    tmp_path: Path,
) -> None:
    held = say.sse(say.EVENTS[:2], Gate("end"), *say.sse(say.EVENTS[2:])[1:])
    async with (
        Upstream(held) as upstream,
        RelayProcess(config({"a": upstream}, None, keys(concurrent=2)), tmp_path) as relay,
    ):
        loop = asyncio.get_running_loop()
        running = [
            loop.create_task(chat(relay.address, key="sk-limited-0123456789abcdef"))
            for _ in range(2)
        ]
        for number in range(2):
            await (await upstream.exchange(number)).reached("end")

        refused = await limited(relay)
        for exchange in upstream.exchanges:
            exchange.open("end")
        ended = [await task for task in running]
        for answer in ended:
            await relay.call_of(answer)
        upstream.script = say.sse(say.EVENTS)
        again = await limited(relay)

        assert (refused.status, refused.error["type"]) == (429, "requests")
        assert refused.headers["retry-after"] == "1"
        assert [item.text for item in (*ended, again)] == [say.TEXT] * 3
        assert len(upstream.exchanges) == 3


@scenario
async def test_a_refusal_by_one_limit_takes_nothing_of_another(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys(rpm=5, tpm=10_000)), tmp_path) as relay,
    ):
        for _ in range(20):
            assert (await limited(relay, max_tokens=50_000)).status == 429
        answers = [await limited(relay, max_tokens=10) for _ in range(5)]

        assert [item.status for item in answers] == [200] * 5


@scenario
async def test_a_group_limits_its_keys_together(tmp_path: Path) -> None:
    known = [
        {"id": name, "key": f"sk-{name}-0123456789abcdef", "group": "team"} for name in ("x", "y")
    ]
    groups = {"team": {"limits": {"rpm": 4}}}
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, known, groups=groups), tmp_path) as relay,
    ):
        answers = [
            await relay.chat(key=f"sk-{'xy'[turn % 2]}-0123456789abcdef") for turn in range(6)
        ]

        assert [item.status for item in answers] == [200] * 4 + [429] * 2
        assert answers[0].headers["x-ratelimit-limit-requests"] == "4"


@pytest.mark.parametrize(
    ("limit", "value"),
    [("requests_per_day", 2), ("tokens_per_day", 60), ("usd_per_month", 0.0001)],
)
@scenario
async def test_a_spent_budget_is_told_as_a_quota_that_waiting_does_not_mend(
    tmp_path: Path, limit: str, value: float
) -> None:
    models = {
        "m": {"pool": [{"upstream": "a"}], "price": {"input": 1, "output": 1}},
    }
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, models, keys(**{limit: value})), tmp_path) as relay,
    ):
        answers: list[Answer] = []
        for _ in range(12):
            answers.append(await limited(relay, max_tokens=12, messages=[]))
            await relay.call_of(answers[-1])

        statuses = [item.status for item in answers]
        assert statuses[0] == 200
        refused = next(item for item in answers if item.status == 429)
        assert refused.error["type"] == "insufficient_quota"
        assert refused.error["code"] == "insufficient_quota"
        assert "retry-after" not in refused.headers
        assert refused.headers["x-should-retry"] == "false"
        assert len(upstream.exchanges) == statuses.count(200)


@scenario
async def test_other_answers_do_not_use_up_the_limit(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys(rpm=2)), tmp_path) as relay,
    ):
        for _ in range(5):
            assert (await limited(relay, model="unknown")).status == 404
            assert (await limited(relay, stream="true")).status == 400
            assert (
                await get(relay.address, "/v1/models", key="sk-limited-0123456789abcdef")
            ).status == 200
        answers = [await limited(relay) for _ in range(3)]

        assert [item.status for item in answers] == [200, 200, 429]


@scenario
async def test_a_key_with_a_token_budget_has_its_answers_bounded_upstream(tmp_path: Path) -> None:
    models = {"m": {"pool": [{"upstream": "a"}], "max_output": 321}}
    known = [*keys(tokens_per_day=100_000), {"id": "free", "key": "sk-free-0123456789abcdef"}]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, models, known), tmp_path) as relay,
    ):
        await limited(relay)
        await limited(relay, max_tokens=7)
        await relay.chat(key="sk-free-0123456789abcdef")

        sent = [json.loads(item.request.body) for item in upstream.exchanges]
        assert [item.get("max_tokens") for item in sent] == [321, 7, None]


@scenario
async def test_calls_of_many_keys_do_not_wait_for_each_other(tmp_path: Path) -> None:
    held = say.sse(say.EVENTS[:2], Gate("end"), Send(say.LAST_CHUNK))
    known = [
        {"id": f"k{n}", "key": f"sk-{n}-0123456789abcdef", "limits": {"concurrent": 1}}
        for n in range(50)
    ]
    async with (
        Upstream(held) as upstream,
        RelayProcess(config({"a": upstream}, None, known), tmp_path) as relay,
    ):
        loop = asyncio.get_running_loop()
        running = [
            loop.create_task(chat(relay.address, key=f"sk-{n}-0123456789abcdef")) for n in range(50)
        ]
        for number in range(50):
            await (await upstream.exchange(number)).reached("end")
        for exchange in upstream.exchanges:
            exchange.open("end")

        for task in running:
            assert (await task).status == 200
