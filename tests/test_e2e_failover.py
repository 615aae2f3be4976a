"""Before the first token nothing that an upstream does is seen by the client, as long as another member is good.

One relay serves the whole table: every fault has upstreams and models of its own, so that what the relay remembers of
one fault touches no other.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from tests.rig import (
    End,
    Models,
    RelayProcess,
    Reset,
    Send,
    Stall,
    Upstream,
    Upstreams,
    chat,
    config,
    scenario,
    within,
)
from tests.rig import scripts as say
from tests.rig.faults import FAULTS, REFUSALS, SHORT, Fault
from tests.rig.raw_client import Answer

ALL = FAULTS | REFUSALS
CASES = [
    pytest.param(name, kind, id=f"{name}, {kind}")
    for name, fault in ALL.items()
    for kind in ("stream", "plain")
    if getattr(fault, kind) is not None
]
RETRY = {"attempts": 3, "budget": "100%"}


@dataclass
class Table:
    """The relay with a pair and a solo model per fault; runs coroutines in the loop it lives in."""

    runner: asyncio.Runner
    good: Upstream = field(default_factory=Upstream)
    bad: dict[tuple[str, str], Upstream] = field(default_factory=dict)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    relay: RelayProcess | None = None

    async def open(self, directory: Path) -> None:
        await self.stack.enter_async_context(self.good)
        upstreams: Upstreams = {"good": self.good}
        models: Models = {}
        timeouts = {"first_token": SHORT, "answer": SHORT, "connect": SHORT}
        for number, case in enumerate(CASES):
            name, kind = case.values
            assert isinstance(name, str)
            assert isinstance(kind, str)
            bad = await self.stack.enter_async_context(Upstream(getattr(ALL[name], kind)))
            self.bad[name, kind] = bad
            # What is remembered of an endpoint is remembered by its upstream's name: two names, two memories.
            for group in ("pair", "solo"):
                entry = f"{group}{number}"
                upstreams[entry] = {"base_url": bad.base_url, "timeouts": timeouts}
                models[entry] = {"pool": [{"upstream": entry}], "retry": RETRY}
            models[f"pair{number}"]["pool"].append({"upstream": "good", "tier": 1})
        fields = config(upstreams, models)
        self.relay = await self.stack.enter_async_context(RelayProcess(fields, directory))

    def chat(self, group: str, name: str, kind: str) -> Answer:
        number = list(self.bad).index((name, kind))
        assert self.relay is not None
        address = self.relay.address
        call = chat(address, model=f"{group}{number}", stream=kind == "stream")
        return self.runner.run(call)

    def line(self, answer: Answer) -> dict[str, Any]:
        assert self.relay is not None
        return self.runner.run(self.relay.call_of(answer))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    with asyncio.Runner() as runner:
        table = Table(runner)
        runner.run(table.open(tmp_path_factory.mktemp("table")))
        try:
            yield table
        finally:
            runner.run(table.stack.aclose())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_fault_before_the_first_token_is_made_good_by_the_next_member(
    table: Table, name: str, kind: str
) -> None:
    fault = ALL[name]
    before = len(table.good.exchanges)

    answer = table.chat("pair", name, kind)

    assert table.bad[name, kind].exchanges, "the bad member was asked first"
    if not fault.tried_again:
        assert answer.status == fault.status
        assert len(table.good.exchanges) == before
        return
    assert (answer.status, answer.end) == (200, End.CLEAN)
    if kind == "stream":
        assert answer.body == b"".join(say.EVENTS)
    else:
        assert answer.json() == say.completion()
    line = table.line(answer)
    assert (line["outcome"], line["upstream"]) == ("ok", "good")
    assert line["attempts"][-1]["result"] == "ok"
    assert len(line["attempts"]) >= 2


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_fault_with_no_other_member_gets_its_one_answer(
    table: Table, name: str, kind: str
) -> None:
    fault = ALL[name]

    answer = table.chat("solo", name, kind)

    assert (answer.status, answer.error["code"]) == (fault.status, fault.code)
    assert answer.end is End.CLEAN
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert b"internal detail" not in answer.body
    assert b"sk-upstream" not in answer.body
    check_wait(answer, fault)


def check_wait(answer: Answer, fault: Fault) -> None:
    """Only a known and short wait may bring an SDK back."""
    told = answer.headers.get("x-should-retry")
    if answer.status < 500 and answer.status not in (408, 429):
        assert told is None
        assert answer.error["param"] == ("model" if fault.tried_again else "max_tokens")
        return
    wait = answer.headers.get("retry-after")
    assert told == ("true" if wait is not None and int(wait) <= 60 else "false")
    if wait is not None:
        assert int(wait) >= 1
        assert float(answer.headers["retry-after-ms"]) <= int(wait) * 1000
    if answer.status == 429:
        assert wait is not None
    if answer.status in (502, 504):
        assert wait is None


# --- faults of the dial -----------------------------------------------------------------------


def unusable_dials() -> dict[str, tuple[str, str]]:
    """Kind of dial failure → base URL and why."""
    return {
        "name that does not resolve": ("http://no-such-host.invalid/v1", "dns_error"),
        "TLS to a plain port": ("https://127.0.0.1:{plain}/v1", "tls_error"),
        "connection refused": ("http://127.0.0.1:{closed}/v1", "connect_refused"),
        "a listener that accepts nothing": ("http://127.0.0.1:{full}/v1", "connect_timeout"),
    }


class NoTls:
    """Answers a TLS hello with words."""

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"no TLS here\r\n")
            writer.close()

        self._server = await asyncio.start_server(answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


@pytest.mark.parametrize("dial", unusable_dials())
@scenario
async def test_a_dial_that_fails_is_free_and_the_next_member_answers(
    tmp_path: Path, dial: str
) -> None:
    url, result = unusable_dials()[dial]
    with closing(socket.socket()) as closed, closing(socket.socket()) as full:
        closed.bind(("127.0.0.1", 0))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        try:
            async with Upstream() as good, NoTls() as plain:
                ports = {
                    "closed": closed.getsockname()[1],
                    "full": full.getsockname()[1],
                    "plain": plain.port,
                }
                bad = {
                    "base_url": url.format(**ports),
                    "timeouts": {"connect": "300ms"},
                }
                models: Models = {
                    "pair": {"pool": [{"upstream": "bad"}, {"upstream": "good", "tier": 1}]},
                    "solo": {"pool": [{"upstream": "alone"}]},
                }
                upstreams: Upstreams = {
                    "bad": bad,
                    "alone": dict(bad),
                    "good": good,
                }
                async with RelayProcess(config(upstreams, models), tmp_path) as relay:
                    answer = await relay.chat(model="pair")
                    alone = await relay.chat(model="solo")

                    assert answer.text == say.TEXT
                    line = await relay.call_of(answer)
                    assert line["attempts"][0]["result"] == result
                    assert (alone.status, alone.error["code"]) == (502, "upstream_unreachable")
                    assert alone.headers["x-should-retry"] == "false"
        finally:
            for filler in fillers:
                filler.close()


# --- what the relay remembers -----------------------------------------------------------------


@scenario
async def test_a_dead_kept_connection_costs_the_client_nothing(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        for way in (say.Close(), Reset()):
            upstream.then([*say.plain(200, say.completion()), way])
            first = await relay.chat(stream=False)
            second = await relay.chat()

            assert first.status == 200
            assert second.text == say.TEXT


@scenario
async def test_a_connection_that_dies_under_the_request_is_replaced_once(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        await relay.chat()
        upstream.then([Reset()])

        answer = await relay.chat()

        assert answer.text == say.TEXT
        line = await relay.call_of(answer)
        assert line["attempts"][0]["result"] == "stale_conn"
        assert [item.request.connection for item in upstream.exchanges] == [0, 0, 1]


@scenario
async def test_a_throttled_member_is_left_alone_until_its_pause_ends(tmp_path: Path) -> None:
    busy = say.error(429, headers=b"Retry-After: 30\r\n")
    async with (
        Upstream(busy) as bad,
        Upstream() as good,
        RelayProcess(config({"bad": bad, "good": good}), tmp_path) as relay,
    ):
        for _ in range(5):
            assert (await relay.chat()).text == say.TEXT

        assert len(bad.exchanges) == 1
        assert len(good.exchanges) == 5


@scenario
async def test_paused_and_parked_members_answer_with_what_is_known(tmp_path: Path) -> None:
    pools = {name: {"pool": [{"upstream": name}]} for name in ("paused", "parked")}
    async with (
        Upstream(say.error(429, headers=b"Retry-After: 30\r\n")) as paused,
        Upstream(say.error(401)) as parked,
        RelayProcess(config({"paused": paused, "parked": parked}, pools), tmp_path) as relay,
    ):
        first = {name: await relay.chat(model=name) for name in pools}
        again = {name: await relay.chat(model=name) for name in pools}

        for answers in (first, again):
            assert answers["paused"].status == 429
            assert answers["paused"].error["code"] == "upstream_rate_limited"
            assert 25 <= int(answers["paused"].headers["retry-after"]) <= 30
            assert answers["paused"].headers["x-should-retry"] == "true"
            assert answers["parked"].status == 503
            assert answers["parked"].error["code"] == "no_upstream_available"
            assert "retry-after" not in answers["parked"].headers
            assert answers["parked"].headers["x-should-retry"] == "false"
        assert (len(paused.exchanges), len(parked.exchanges)) == (1, 1)


@scenario
async def test_a_member_that_keeps_failing_is_ejected_but_the_last_one_never(
    tmp_path: Path,
) -> None:
    models: Models = {
        "pair": {
            "pool": [{"upstream": "bad"}, {"upstream": "good", "tier": 1}],
            "retry": RETRY,
        },
        "solo": {"pool": [{"upstream": "alone"}], "retry": {"attempts": 1}},
    }
    async with Upstream(say.error(500)) as bad, Upstream() as good:
        upstreams: Upstreams = {
            "bad": bad,
            "alone": {"base_url": bad.base_url},
            "good": good,
        }
        async with RelayProcess(config(upstreams, models), tmp_path) as relay:
            for _ in range(12):
                assert (await relay.chat(model="pair")).text == say.TEXT
            asked = len(bad.exchanges)
            for _ in range(12):
                assert (await relay.chat(model="solo")).status == 502

            assert asked == 5
            assert len(bad.exchanges) == asked + 12


@scenario
async def test_weights_share_and_tiers_wait_their_turn(tmp_path: Path) -> None:
    pool = [
        {"upstream": "a", "weight": 3},
        {"upstream": "b", "weight": 1},
        {"upstream": "z", "weight": 0},
        {"upstream": "c", "tier": 1},
    ]
    models: Models = {"m": {"pool": pool, "strategy": "weighted"}}
    async with Upstream() as a, Upstream() as b, Upstream() as c, Upstream() as z:
        fields = config({"a": a, "b": b, "c": c, "z": z}, models)
        async with RelayProcess(fields, tmp_path) as relay:
            for _ in range(40):
                assert (await relay.chat(stream=False)).status == 200

            counts = [len(each.exchanges) for each in (a, b, c, z)]
            assert counts == [30, 10, 0, 0]


@scenario
async def test_a_full_tier_spills_to_the_next(tmp_path: Path) -> None:
    held = say.sse(say.EVENTS[:2], say.Gate("end"), Send(say.LAST_CHUNK))
    async with Upstream(held) as small, Upstream() as large:
        upstreams: Upstreams = {
            "small": {"base_url": small.base_url, "max_concurrent": 1},
            "large": large,
        }
        async with RelayProcess(config(upstreams), tmp_path) as relay:
            loop = asyncio.get_running_loop()
            first = loop.create_task(chat(relay.address))
            holding = await small.exchange()
            await holding.reached("end")

            second = await relay.chat()

            assert second.text == say.TEXT
            assert (len(small.exchanges), len(large.exchanges)) == (1, 1)
            holding.open("end")
            async with within():
                await first


@scenario
async def test_silence_is_counted_from_the_calls_receipt_and_lowered_by_its_header(
    tmp_path: Path,
) -> None:
    upstream_timeouts = {"first_token": "20s"}
    async with Upstream([Stall()]) as mute, Upstream() as good:
        upstreams: Upstreams = {
            "mute": {"base_url": mute.base_url, "timeouts": upstream_timeouts},
            "good": good,
        }
        async with RelayProcess(config(upstreams), tmp_path) as relay:
            answer = await relay.chat(headers={"x-relay-first-token-ms": "150"})
            junk = await relay.chat(headers={"x-relay-first-token-ms": "1_000"})

            line = await relay.call_of(answer)
            assert answer.text == say.TEXT
            assert line["attempts"][0]["result"] == "first_token_timeout"
            assert 100 <= line["attempts"][0]["ms"] < 2000
            assert (junk.status, junk.error["param"]) == (400, "x-relay-first-token-ms")


@scenario
async def test_a_call_with_no_healthy_model_falls_back_to_the_next_and_last_to_static_words(
    tmp_path: Path,
) -> None:
    models: Models = {
        "m": {"pool": [{"upstream": "bad"}], "fallback": ["spare", "sorry"]},
        "lost": {"pool": [{"upstream": "bad"}], "fallback": ["sorry"]},
        "spare": {"pool": [{"upstream": "good"}]},
        "sorry": {"static": "系统繁忙，请稍后再试"},
    }
    async with Upstream(say.error(500)) as bad, Upstream() as good:
        fields = config({"bad": bad, "good": good}, models)
        async with RelayProcess(fields, tmp_path) as relay:
            spare = await relay.chat()
            static = await relay.chat(model="lost")
            plain = await relay.chat(model="lost", stream=False)

            assert spare.text == say.TEXT
            assert spare.headers["x-relay-fallback"] == "spare"
            assert static.text == "系统繁忙，请稍后再试"
            assert static.headers["x-relay-fallback"] == "static"
            assert static.events[-1] == say.DONE
            assert plain.json()["choices"][0]["message"]["content"] == "系统繁忙，请稍后再试"
            assert (await relay.call_of(static))["outcome"] == "degraded"
