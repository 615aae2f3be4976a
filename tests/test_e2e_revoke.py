"""A key that is taken away: refused at once, and what runs finishes or is cut, as the key says."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from relay.keys.entries import hash_of
from tests.crew import HELD, several
from tests.rig import End, Gate, RawClient, RelayProcess, Upstream, config, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.relay_process import Fields, Line

KEY = "sk-gone-0123456789abcdef"
OTHER = "sk-other-0123456789abcdef"
ASKED = request("POST", "/v1/chat/completions", chat_body(), key=KEY)
PLAIN = request("POST", "/v1/chat/completions", chat_body(stream=False), key=KEY)

WORKERS = pytest.mark.parametrize("workers", [1, 2])


def about_reload(line: Line) -> bool:
    return "reload" in str(line.get("event"))


def with_keys(upstream: Upstream, workers: int, *keys: dict[str, Any]) -> Fields:
    kept = {"id": "kept", "key": "sk-kept-0123456789abcdef"}
    return several(workers, config({"a": upstream}, None, [kept, *keys]))


def gone(**options: Any) -> dict[str, Any]:
    return {"id": "gone", "hash": hash_of(KEY), **options}


async def held(
    relay: RelayProcess, stack: AsyncExitStack, upstream: Upstream, count: int
) -> list[RawClient]:
    """Streams of the key that are under way."""
    clients = []
    for number in range(count):
        client = await stack.enter_async_context(await RawClient.connect(relay.address))
        await client.send(ASKED)
        await client.head()
        await (await upstream.exchange(number)).reached("end")
        clients.append(client)
    return clients


async def reload(relay: RelayProcess, fields: Fields) -> None:
    relay.write(fields)
    relay.reload()
    line = await relay.log(about_reload)
    assert line["event"] == "reloaded", line


@WORKERS
@scenario
async def test_streams_of_a_revoked_key_are_cut_with_an_honest_end(
    tmp_path: Path, workers: int
) -> None:
    count = 8
    async with Upstream(HELD) as upstream, AsyncExitStack() as stack:
        before = with_keys(upstream, workers, gone(on_revoke="cut"))
        async with RelayProcess(before, tmp_path) as relay:
            clients = await held(relay, stack, upstream, count)
            await reload(relay, with_keys(upstream, workers))
            answers = [await client.rest() for client in clients]
            refused = await relay.chat(key=KEY)
            lines = [await relay.call_of(answer) for answer in answers]
            metrics = await relay.metrics()
            while 'relay_stream_end_total{cause="revoked"}' not in metrics:
                metrics = await relay.metrics()

            assert [answer.end for answer in answers] == [End.BROKEN] * count
            errors = [json.loads(answer.events[-1][6:])["error"] for answer in answers]
            assert {error["code"] for error in errors} == {"key_revoked"}
            assert refused.status == 401
            assert {(line["outcome"], line["cause"]) for line in lines} == {
                ("stream_truncated", "revoked")
            }
            assert metrics['relay_stream_end_total{cause="revoked"}'] == count
            assert [attempt["result"] for attempt in lines[0]["attempts"]] == ["cancelled"]


@WORKERS
@scenario
async def test_by_default_they_finish(tmp_path: Path, workers: int) -> None:
    async with Upstream(HELD) as upstream, AsyncExitStack() as stack:
        before = with_keys(upstream, workers, gone())
        async with RelayProcess(before, tmp_path) as relay:
            (client,) = await held(relay, stack, upstream, 1)
            await reload(relay, with_keys(upstream, workers))
            refused = await relay.chat(key=KEY)
            upstream.exchanges[0].open("end")
            answer = await client.rest()

            assert refused.status == 401
            assert (answer.text, answer.end) == (say.TEXT, End.CLEAN)


@scenario
async def test_a_call_without_an_answer_yet_gets_the_error(tmp_path: Path) -> None:
    async with (
        Upstream([Gate("never")]) as upstream,
        RelayProcess(with_keys(upstream, 1, gone(on_revoke="cut")), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        await client.send(PLAIN)
        await (await upstream.exchange()).reached("never")
        await reload(relay, with_keys(upstream, 1))
        await client.head()
        answer = await client.rest()
        line = await relay.call_of(answer)

        assert answer.status == 401
        assert json.loads(answer.body)["error"]["code"] == "key_revoked"
        assert (line["outcome"], line["error"]) == ("client_error", "key_revoked")
        assert "cause" not in line


@pytest.mark.parametrize(
    ("after", "cut"),
    [
        ([{"id": "gone", "on_revoke": "cut"}], True),
        ([{"id": "gone", "hash": hash_of(OTHER)}], False),
        ([{"id": "gone", "hash": hash_of(OTHER), "on_revoke": "cut"}], False),
    ],
    ids=["told so by an entry without a key", "finishes", "the new entry does not speak for it"],
)
@scenario
async def test_what_the_key_said_counts_or_an_entry_that_is_left_to_say_so(
    tmp_path: Path, after: list[dict[str, Any]], cut: bool
) -> None:
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(with_keys(upstream, 1, gone()), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        (client,) = await held(relay, stack, upstream, 1)
        await reload(relay, with_keys(upstream, 1, *after))
        if not cut:
            upstream.exchanges[0].open("end")
        answer = await client.rest()

        assert answer.end is (End.BROKEN if cut else End.CLEAN)


@pytest.mark.parametrize(
    ("previous", "cut"),
    [([{"hash": hash_of(KEY), "until": "2100-01-01"}], False), ([], True)],
    ids=["with a grace", "without"],
)
@scenario
async def test_a_rotation_is_a_revocation_only_without_a_grace(
    tmp_path: Path, previous: list[dict[str, str]], cut: bool
) -> None:
    async with Upstream(HELD) as upstream, AsyncExitStack() as stack:
        before = with_keys(upstream, 1, gone(on_revoke="cut"))
        async with RelayProcess(before, tmp_path) as relay:
            (client,) = await held(relay, stack, upstream, 1)
            rotated = {
                "id": "gone",
                "hash": hash_of(OTHER),
                "on_revoke": "cut",
                "previous": previous,
            }
            await reload(relay, with_keys(upstream, 1, rotated))
            old = await relay.chat(key=KEY) if cut else None
            if not cut:
                upstream.exchanges[0].open("end")
            answer = await client.rest()

            assert answer.end is (End.BROKEN if cut else End.CLEAN)
            assert old is None or old.status == 401


@scenario
async def test_a_request_that_is_still_coming_in_is_refused(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(with_keys(upstream, 1, gone()), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        await client.send(ASKED[:-10])
        # Whoever is answered now has been read after the first part of that.
        await relay.chat(key=KEY)
        await reload(relay, with_keys(upstream, 1))
        await client.send(ASKED[-10:])
        await client.head()
        answer = await client.rest()

        assert answer.status == 401
        assert json.loads(answer.body)["error"]["code"] == "key_revoked"
        assert len(upstream.exchanges) == 1
