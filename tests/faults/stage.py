"""Plays a table of faults against one relay, each case with a model, an upstream and a key of its own.

One scripted server speaks for all faulty upstreams: the first part of the path says which case is meant. So what the
relay remembers of one case touches no other, and all of them can run at once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import after, before, dials, statuses
from tests.faults.places import places
from tests.faults.row import MODES, SECRET, SETTINGS, Mode, Row, Setting
from tests.rig.raw_client import KEY, Answer, RawClient, chat_body, request
from tests.rig.relay_process import Fields, Line, Models, RelayProcess, config
from tests.rig.scripts import Script
from tests.rig.upstream import Exchange, Request, Upstream

AT_ONCE = 12
"""Cases under way at the same time."""
DAY = 100_000_000
"""The tokens a day of each key: what was billed can be read from the used part."""


@dataclass(frozen=True, slots=True)
class Case:
    number: int
    row: Row
    mode: Mode
    setting: Setting

    @property
    def name(self) -> str:
        """Of its model, its upstream and its key."""
        return f"c{self.number}"

    @property
    def key(self) -> str:
        return f"sk-case-{self.number:04d}-0123456789abcdef"

    @property
    def title(self) -> str:
        return f"{self.row.name}, {self.mode}, {self.setting}"


@dataclass(slots=True)
class Outcome:
    """What came of one case."""

    case: Case
    answers: list[Answer]
    seconds: list[float]
    lines: list[Line] = field(default_factory=list)
    """Of the access log."""
    heard: list[Exchange] = field(default_factory=list)
    """What the faulty upstream was asked."""
    second: int = 0
    """How often the healthy one was."""


@dataclass(slots=True)
class Round:
    """All cases, played once."""

    outcomes: list[Outcome]
    page: dict[str, float]
    """The metrics afterwards."""
    sink: int
    """Requests that followed a redirect."""
    running: list[str]
    """Cases whose upstream is still busy with an answer that nobody waits for."""
    told: dict[str, str]
    """Upstream → the state that the log told of it last."""
    stderr: str
    errors: dict[str, str]
    """Cases that could not be played: why."""


def table() -> list[Row]:
    return [*dials.rows(), *before.rows(), *statuses.rows(), *after.rows()]


def cases(rows: Sequence[Row] | None = None) -> list[Case]:
    found = [
        (row, mode, setting)
        for row in (table() if rows is None else rows)
        for mode in MODES
        if row.play(mode) is not None
        for setting in SETTINGS
    ]
    return [Case(number, *each) for number, each in enumerate(found)]


class Cast:
    """The faulty upstreams, which all live on one port, and what they were asked."""

    def __init__(self, played: Sequence[Case]) -> None:
        self._cases = {case.name: case for case in played}
        self._asked: dict[str, int] = defaultdict(int)
        self.sink = 0
        self.scripted = Upstream(self.answer)
        self.hasty = Upstream(hasty=self.answer)

    def answer(self, request: Request) -> Script:
        name = request.target.split("/")[1]
        if name == "sink":
            self.sink += 1
            return []
        case = self._cases[name]
        number = self._asked[name]
        self._asked[name] += 1
        play = case.row.play(case.mode)
        assert play is not None
        return play(number) if callable(play) else play

    def heard(self) -> dict[str, list[Exchange]]:
        found: dict[str, list[Exchange]] = defaultdict(list)
        for exchange in (*self.scripted.exchanges, *self.hasty.exchanges):
            found[exchange.request.target.split("/")[1]].append(exchange)
        return found


def configuration(
    played: Sequence[Case], cast: Cast, good: Upstream, there: dict[str, Fields]
) -> Fields:
    upstreams: dict[str, Fields] = {"good": {"base_url": good.base_url}}
    models: Models = {}
    keys: list[Fields] = [{"id": "tester", "key": KEY}]
    for case in played:
        row, name = case.row, case.name
        port = cast.hasty.port if row.place == "hasty" else cast.scripted.port
        fields = {"base_url": f"http://127.0.0.1:{port}/{name}/v1"}
        fields |= there.get(row.place, {})
        own = fields | {"api_keys": [SECRET], "timeouts": dict(row.timeouts)}
        upstreams[name] = own | {"connections": dict(row.connections)}
        pool: list[Fields] = [{"upstream": name}]
        if case.setting == "with second":
            second = "good"
            if row.both:
                second = f"{name}b"
                upstreams[second] = own
            pool.append({"upstream": second, "tier": 1})
        models[name] = {"pool": pool, "retry": {"attempts": 3, "budget": "100%"}}
        keys.append({"id": name, "key": case.key, "limits": {"tokens_per_day": DAY}})
    return config(upstreams, models, keys)


async def call(relay: RelayProcess, case: Case) -> Answer:
    body = chat_body(model=case.name, stream=case.mode == "stream", **case.row.fields)
    whole = request("POST", "/v1/chat/completions", body, key=case.key)
    async with await RawClient.connect(relay.address) as client:
        return await client.ask(whole)


async def _play(relay: RelayProcess, case: Case) -> Outcome:
    answers, seconds = [], []
    loop = asyncio.get_running_loop()
    for _ in range(case.row.calls):
        began = loop.time()
        answers.append(await call(relay, case))
        seconds.append(loop.time() - began)
    lines = [await relay.call_of(answer) for answer in answers]
    return Outcome(case, answers, seconds, lines)


async def play(played: Sequence[Case], directory: Path, folder: Path) -> Round:
    """One relay, all cases, some at a time. `folder` keeps the certificates."""
    async with staged(played, directory, folder) as (relay, cast, good):
        gate = asyncio.Semaphore(AT_ONCE)
        errors: dict[str, str] = {}

        async def one(case: Case) -> Outcome | None:
            async with gate:
                try:
                    return await _play(relay, case)
                except (AssertionError, EOFError, OSError, TimeoutError) as error:
                    errors[case.name] = repr(error)[:500]
                    return None

        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(one(case)) for case in played]
        outcomes = [found for task in tasks if (found := await task) is not None]
        running = await _left(cast)
        heard = cast.heard()
        second: dict[str, int] = defaultdict(int)
        for exchange in good.exchanges:
            second[exchange.request.json()["model"]] += 1
        for outcome in outcomes:
            outcome.heard = heard[outcome.case.name]
            outcome.second = second[outcome.case.name]
        page = await relay.metrics()
        told = {
            str(line["upstream"]): str(line["state"])
            for line in relay.lines
            if line.get("event") == "upstream_state"
        }
        return Round(outcomes, page, cast.sink, running, told, relay.stderr, errors)


async def _left(cast: Cast) -> list[str]:
    """Waits until no answer is under way any more: the cases where one stays."""
    running = []
    for name, exchanges in cast.heard().items():
        for exchange in exchanges:
            try:
                if not exchange.played.is_set():
                    await exchange.left()
            except TimeoutError:
                running.append(name)
    return running


@asynccontextmanager
async def staged(
    played: Sequence[Case], directory: Path, folder: Path
) -> AsyncIterator[tuple[RelayProcess, Cast, Upstream]]:
    """The relay between all faulty upstreams, the healthy one, and whoever calls."""
    cast = Cast(played)
    async with (
        cast.scripted,
        cast.hasty,
        Upstream() as good,
        places(folder) as there,
        RelayProcess(configuration(played, cast, good, there.fields), directory) as relay,
    ):
        yield relay, cast, good
