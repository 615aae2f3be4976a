"""The stand-in upstream and the load generator count what happened: each judged by the other, and by the rig."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.programs import ProgramError
from bench.tools import Load, LoadGenerator, Report, Standin, Target, Tools
from tests.rig import Close, RawClient, Reset, Send, Upstream, scenario
from tests.rig import scripts as say
from tests.rig.bench import built
from tests.rig.raw_client import chat, chat_body
from tests.rig.scripts import Script


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return built(tmp_path_factory.mktemp("tools"))


@pytest.fixture
def standin(tools: Tools, tmp_path: Path) -> Iterator[Standin]:
    with Standin(tools, 0, tmp_path / "standin") as program:
        yield program


def load(tools: Tools, standin: Standin, home: Path, what: Load) -> Report:
    target = Target(standin.url, pids=(standin.pid,))
    with LoadGenerator(tools, target, what, 0, home / "load") as generator:
        return generator.report()


async def scripted(tools: Tools, upstream: Upstream, home: Path, what: Load) -> Report:
    """The load generator against an upstream of the rig."""
    target = Target(f"{upstream.base_url}/chat/completions")
    with LoadGenerator(tools, target, what, 0, home / "load") as generator:
        return await asyncio.to_thread(generator.report)


def stamped(sent: int = 10**12, received: int = 10**12) -> bytes:
    return say.delta({"content": f"@{sent:019}/{received:019};"})


# --- the two against each other ---------------------------------------------------------------


def test_both_count_the_same_calls_and_events(
    tools: Tools, standin: Standin, tmp_path: Path
) -> None:
    standin.say("events=7")

    report = load(tools, standin, tmp_path, Load(3, 20, calls=50, streamed=True))

    did = standin.stop()
    assert (report.calls, report.failed, report.events) == (50, 0, 350)
    assert (did.requests, did.streams, did.events) == (50, 50, 350)
    assert did.connections == 3 + 1  # and the one that brought the words
    assert report.delay_ms.count == 350
    assert report.first_content_ms.count == report.total_ms.count == 50
    assert report.statuses == {"200": 50}


def test_plain_calls_bring_one_stamp_each(tools: Tools, standin: Standin, tmp_path: Path) -> None:
    report = load(tools, standin, tmp_path, Load(2, 20, calls=30))

    did = standin.stop()
    assert (report.calls, report.events, did.requests, did.streams) == (30, 30, 30, 0)
    assert 0 < report.added_ms.p50 <= report.total_ms.max


def test_failures_are_told_apart_by_kind(tools: Tools, standin: Standin, tmp_path: Path) -> None:
    outcomes = {}
    for word in ("fail", "cut", "reset"):
        standin.say(f"events=4 fail=0 cut=0 reset=0 {word}=100")
        report = load(tools, standin, tmp_path, Load(1, 20, calls=3, streamed=True))
        outcomes[word] = {name: count for name, count in report.outcomes.items() if count}

    assert outcomes == {"fail": {"status": 3}, "cut": {"truncated": 3}, "reset": {"reset": 3}}


def test_a_stall_ends_with_the_time_and_counts_as_nothing(
    tools: Tools, standin: Standin, tmp_path: Path
) -> None:
    report = load(tools, standin, tmp_path, Load(2, 0.3, streamed=True, asks="stall=100"))

    assert sum(report.outcomes.values()) == report.events == report.open == 0


def test_a_call_brings_its_own_words(tools: Tools, standin: Standin, tmp_path: Path) -> None:
    asked = load(
        tools, standin, tmp_path, Load(1, 20, calls=1, streamed=True, asks="events=3 pad=9000")
    )
    usual = load(tools, standin, tmp_path, Load(1, 20, calls=1, streamed=True))

    assert (asked.events, usual.events) == (3, 64)
    assert asked.bytes > 27_000


def test_intervals_are_kept(tools: Tools, standin: Standin, tmp_path: Path) -> None:
    standin.say("events=5 first_ms=20 interval_ms=10")

    report = load(tools, standin, tmp_path, Load(1, 20, calls=1, streamed=True))

    assert report.first_content_ms.p50 >= 20
    assert report.total_ms.p50 >= 20 + 4 * 10
    assert standin.stop().late_ms.count == 5


def test_a_long_body_arrives_whole(tools: Tools, standin: Standin, tmp_path: Path) -> None:
    report = load(tools, standin, tmp_path, Load(2, 20, calls=4, body_bytes=2_000_000))

    assert report.calls == standin.stop().requests == 4


def test_never_reading_clients_hold_the_stand_in_back(
    tools: Tools, standin: Standin, tmp_path: Path
) -> None:
    asks = "events=100000 pad=1000000"

    report = load(tools, standin, tmp_path, Load(2, 1.0, streamed=True, never_read=True, asks=asks))

    did = standin.stop()
    assert (report.held, report.bytes) == (2, 0)
    assert did.unread >= 2
    assert did.events < 100


def test_a_load_that_is_ended_early_reports_what_it_held(
    tools: Tools, standin: Standin, tmp_path: Path
) -> None:
    standin.say("events=1000 first_ms=1 interval_ms=1")
    target = Target(standin.url)
    what = Load(5, 60, streamed=True)
    with LoadGenerator(tools, target, what, 0, tmp_path / "load") as generator:
        load(
            tools,
            standin,
            tmp_path / "other",
            Load(1, 20, calls=1, streamed=True, asks="events=50"),
        )

        report = generator.finish()

    assert report.open == 5
    assert report.seconds < 30


def test_cpu_and_memory_of_a_process_are_counted(
    tools: Tools, standin: Standin, tmp_path: Path
) -> None:
    report = load(tools, standin, tmp_path, Load(4, 20, calls=2000))

    watched = report.watched[0]
    assert watched.processes == 1
    assert 0 < watched.cpu_s == watched.busiest_s
    assert watched.cpu_s <= standin.stop().cpu_s
    assert watched.rss_kb > 500


def test_unknown_words_are_refused(tools: Tools, standin: Standin, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="what is"):
        standin.say("evnts=3")
    with pytest.raises(ProgramError, match="what is"):
        Standin(tools, 0, tmp_path / "other", "fail=101")


def test_a_load_goes_to_loopback_only(tools: Tools, tmp_path: Path) -> None:
    target = Target("http://192.0.2.1:80/v1/chat/completions")
    with (
        LoadGenerator(tools, target, Load(1, 1), 0, tmp_path) as generator,
        pytest.raises(ProgramError, match="loopback"),
    ):
        generator.report()


# --- against the rig --------------------------------------------------------------------------


@scenario
async def test_events_are_counted_however_segments_are_cut(tools: Tools, tmp_path: Path) -> None:
    events = (say.ROLE, stamped(), stamped(), say.FINISH, say.DONE)
    whole = say.SSE_HEAD + b"".join(say.frame(item) for item in events) + say.LAST_CHUNK
    async with Upstream([Send(whole)]) as upstream:
        upstream.then([Send(whole[at : at + 1]) for at in range(len(whole))])

        report = await scripted(tools, upstream, tmp_path, Load(1, 20, calls=2, streamed=True))

    assert (report.calls, report.failed, report.events) == (2, 0, 4)


BROKEN: dict[str, Script] = {
    "truncated": [Send(say.SSE_HEAD + say.frame(stamped())), Close()],
    "reset": [Send(say.SSE_HEAD), Reset()],
    "malformed": [Send(say.SSE_HEAD + b"xyz\r\n"), Close()],
    "no_done": [Send(say.SSE_HEAD + say.frame(stamped()) + say.LAST_CHUNK)],
    "error_event": [Send(say.SSE_HEAD + say.frame(say.event({"error": {}})) + say.LAST_CHUNK)],
    "status": say.error(500),
}


@pytest.mark.parametrize("kind", BROKEN)
@scenario
async def test_a_broken_answer_has_its_own_name(tools: Tools, tmp_path: Path, kind: str) -> None:
    async with Upstream(BROKEN[kind]) as upstream:
        report = await scripted(tools, upstream, tmp_path, Load(1, 20, calls=1, streamed=True))

    assert {name: count for name, count in report.outcomes.items() if count} == {kind: 1}


@scenario
async def test_a_port_where_nobody_listens_is_refused(tools: Tools, tmp_path: Path) -> None:
    async with Upstream() as upstream:
        gone = upstream.base_url
    target = Target(f"{gone}/chat/completions")

    with LoadGenerator(tools, target, Load(1, 0.2), 0, tmp_path) as generator:
        report = await asyncio.to_thread(generator.report)

    assert report.outcomes["refused"] == report.failed >= 1


@scenario
async def test_the_delay_is_the_time_since_the_stamp(tools: Tools, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()  # its clock is CLOCK_MONOTONIC, as the tools' is
    began = loop.time()
    sent = int((began - 0.5) * 1e9)
    async with Upstream(say.sse([stamped(sent, sent), say.DONE])) as upstream:
        report = await scripted(tools, upstream, tmp_path, Load(1, 20, calls=1, streamed=True))
    took_ms = (loop.time() - began) * 1000

    assert 500 <= report.delay_ms.max <= 500 + took_ms
    assert report.delay_ms.p50 == pytest.approx(report.delay_ms.max, rel=0.02)
    assert report.added_ms.max == report.delay_ms.max


@scenario
async def test_the_stand_in_speaks_like_a_provider(tools: Tools, tmp_path: Path) -> None:
    with Standin(tools, 0, tmp_path, "events=2") as standin:
        address = ("127.0.0.1", standin.port)

        streamed = await chat(address, stream=True, stream_options={"include_usage": True})
        plain = await chat(address, stream=False)

    assert streamed.headers["content-type"] == "text/event-stream"
    assert streamed.body.count(b'"content":"@') == 2
    assert b'"completion_tokens":2' in streamed.body
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert plain.json()["choices"][0]["finish_reason"] == "stop"


@scenario
async def test_the_stand_in_reads_chunked_calls(tools: Tools, tmp_path: Path) -> None:
    body = chat_body(stream=False)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Standin(tools, 0, tmp_path) as standin:
        async with await RawClient.connect(("127.0.0.1", standin.port)) as client:
            answer = await client.ask(
                head + say.frame(body[:9]) + say.frame(body[9:]) + say.LAST_CHUNK
            )

    assert answer.status == 200
