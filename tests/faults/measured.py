"""The parts of `make faults`: each plays its table many times and returns what the report needs, as plain data."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import clients, crosstalk, leaving, peers, sdks
from tests.faults.judged import verdict
from tests.faults.row import Break, Failure
from tests.faults.stage import Case, Outcome, Round, cases, play
from tests.faults.verdicts import complaints, sums
from tests.rig import scripts as say

Data = dict[str, Any]
Tell = Callable[[str], None]


def matrix(times: int, tell: Tell) -> Data:
    """Every row in both modes and settings, `times` rounds, each with a relay of its own."""
    played = cases()
    found: dict[str, Data] = {case.title: _blank(case) for case in played}
    wrong: list[str] = []
    requests = 0
    for number in range(times):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            (directory / "relay").mkdir()
            round_ = asyncio.run(play(played, directory / "relay", directory / "authority"))
        bad = _add(found, round_)
        requests += sum(case.row.calls for case in played)
        wrong += [f"round {number + 1}: {each}" for each in bad]
        tell(
            f"round {number + 1} of {times}: {len(played)} cases, {len(bad)} not as they should be"
        )
    for each in found.values():
        each["ms"] = round(statistics.median(each["ms"]), 1) if each["ms"] else None
    return {"times": times, "calls": requests, "cases": list(found.values()), "wrong": wrong}


def _blank(case: Case) -> Data:
    must = case.row.must
    return {
        "row": case.row.name,
        "group": case.row.group,
        "mode": case.mode,
        "setting": case.setting,
        "kind": type(must).__name__,
        "elsewhere": isinstance(must, Failure) and must.elsewhere and not case.row.both,
        "saw": Counter(),
        "verdicts": Counter(),
        "attempts": Counter(),
        "ms": [],
    }


def _add(found: dict[str, Data], played: Round) -> list[str]:
    wrong = [*sums(played), *(f"{name}: {why}" for name, why in played.errors.items())]
    for outcome in played.outcomes:
        case, answer = outcome.case, outcome.answers[-1]
        into = found[case.title]
        into["verdicts"][verdict(case.row, case.mode, answer)] += 1
        into["saw"][_saw(outcome)] += 1
        into["attempts"][_attempts(outcome)] += 1
        into["ms"].append(outcome.seconds[-1] * 1000)
        wrong += [f"{case.title}: {each}" for each in complaints(outcome, played)]
    return wrong


def _saw(outcome: Outcome) -> str:
    """What the client saw, in a word or three."""
    case, answer = outcome.case, outcome.answers[-1]
    judged = verdict(case.row, case.mode, answer)
    if judged == "answer":
        return "the whole answer"
    if answer.status != 200:
        return f"{answer.status} `{answer.error['code']}`"
    if case.mode == "plain":
        return "a broken body"
    told = judged == "broken" and b'data: {"error"' in answer.body and say.DONE not in answer.body
    return "error event, broken end" if told else judged


def _attempts(outcome: Outcome) -> str:
    tried = [
        ("second: " if item["upstream"] == "good" else "") + item["result"]
        for item in outcome.lines[-1].get("attempts", [])
    ]
    counted = Counter(tried)
    return ", ".join(f"{result} ×{n}" if n > 1 else result for result, n in counted.items()) or "–"


def others(times: int, tell: Tell) -> Data:
    """nginx and HAProxy, `times` rounds each."""
    found: Data = {}
    for peer in peers.PEERS:
        verdicts: dict[str, Counter[str]] = defaultdict(Counter)
        left: Counter[str] = Counter()
        for number in range(times):
            with tempfile.TemporaryDirectory() as name:
                home = Path(name)
                seen, busy = asyncio.run(peers.play(peer, home, home / "authority"))
            left.update(busy)
            for title, each in seen.items():
                verdicts[title][each] += 1
            tell(f"{peer}, round {number + 1} of {times}: {dict(Counter(seen.values()))}")
        found[peer] = {"version": peers.version(peer), "verdicts": verdicts, "left": left}
    return {"times": times, "peers": found}


def of_clients(times: int, tell: Tell) -> Data:
    async def round_() -> list[clients.Seen]:
        with tempfile.TemporaryDirectory() as name:
            async with clients.serving(Path(name)) as (relay, upstream):
                return [await clients.ask(relay, upstream, row) for row in clients.rows()]

    rows: dict[str, Data] = {}
    wrong: list[str] = []
    for number in range(times):
        seen = asyncio.run(round_())
        for each in seen:
            row = each.row
            into = rows.setdefault(row.name, {"group": row.group, "saw": Counter(), "calls": 0})
            into["calls"] += each.calls
            said = [
                f"{a.status} `{a.error['code']}`" if a.status != 200 else "200"
                for a in each.answers
            ]
            closed = ", closed" if row.closes else ""
            into["saw"][(", ".join(said) or "closed without a word") + closed] += 1
            wrong += [f"{row.name}: {why}" for why in clients.complaints(each)]
        tell(f"clients, round {number + 1} of {times}: {len(seen)} rows, {len(wrong)} complaints")
    return {"times": times, "rows": rows, "wrong": wrong}


def of_leaving(times: int, tell: Tell) -> Data:
    """`times` clients that leave in each phase in each way."""

    async def all_of_them() -> tuple[dict[str, list[float]], list[str]]:
        with tempfile.TemporaryDirectory() as name:
            async with leaving.bench(Path(name)) as bench:
                wrong = []
                for phase in leaving.PHASES:
                    for turn in range(times * len(leaving.LEAVES)):
                        leave = leaving.LEAVES[turn % len(leaving.LEAVES)]
                        _, line = await bench.leave(phase, leave)
                        wrong += [f"{phase}: {each}" for each in leaving.complaints(phase, line)]
                    tell(f"leaving, {phase}: {len(bench.measured[phase])} clients")
                return bench.measured, wrong

    measured, wrong = asyncio.run(all_of_them())
    phases = {
        phase: {
            "n": len(values),
            "p50": leaving.percentile(values, 0.5) * 1000,
            "p99": leaving.percentile(values, 0.99) * 1000,
            "max": max(values) * 1000,
        }
        for phase, values in measured.items()
    }
    return {"phases": phases, "wrong": wrong}


def of_sdks(times: int, tell: Tell) -> Data:
    rows: dict[str, Data] = {}
    modes = len(sdks.broken_streams())
    for number in range(times):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            (directory / "relay").mkdir()
            met = asyncio.run(sdks.through(directory / "relay", directory / "authority", sdks.ALL))
        for each in met:
            into = rows.setdefault(each.client, {"streams": 0, "whole": 0, "wrong": []})
            into["streams"] += 1
            into["whole"] += each.looks_whole
            if each.complaint:
                into["wrong"].append(f"{each.case.row.name}: {each.complaint}")
        tell(f"SDKs, round {number + 1} of {times}: {len(met)} streams")
    return {"times": times, "modes": modes, "clients": rows}


def of_crosstalk(streams: int, tell: Tell) -> Data:
    with tempfile.TemporaryDirectory() as name:
        told = asyncio.run(crosstalk.measure(Path(name), streams))
    tell(f"cross-talk: {told['streams']} streams in {told['seconds']:.0f} s")
    return told


def truncations(data: Data) -> tuple[int, int]:
    """Broken answers of the matrix, and how many of them look whole."""
    played = [each for each in data["cases"] if each["kind"] == Break.__name__]
    total = sum(sum(each["verdicts"].values()) for each in played)
    good = sum(each["verdicts"].get("broken", 0) for each in played)
    return total, total - good


def survived(cases_: list[Data], verdicts: Callable[[Data], dict[str, int]]) -> tuple[int, int]:
    """Faults before the commit with a healthy second: played, and those with a whole answer."""
    played = [
        verdicts(each) for each in cases_ if each["elsewhere"] and each["setting"] == "with second"
    ]
    return (
        sum(sum(each.values()) for each in played),
        sum(each.get("answer", 0) for each in played),
    )
