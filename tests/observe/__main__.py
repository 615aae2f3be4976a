"""`make observe`: two minutes of traffic and faults under a real Prometheus with the shipped rules.

    python -m tests.observe --factor 60

Prints which alert fired when, whether every query of every dashboard found data, and what the overview said at two
moments of which is known what it should say. The exit code is 1 when one found none, when an alert that was due did not
fire, when another one did, or when the overview named anything else.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.grafana.__main__ import FOLDER
from tests.observe import shipped, small
from tests.observe.answers import Answers, answers
from tests.observe.asked import Asked, empty, queries
from tests.observe.faults import (
    CALM,
    END,
    FAULTS,
    FIRST,
    HEALED,
    STANDING,
    STARVED,
    Subject,
    subject_of,
)
from tests.observe.place import Callers, Provider, fields, standing
from tests.observe.stage import Stage
from tests.observe.watchers import PAUSE, Prometheus, until
from tests.rig import RelayProcess

WORKERS = 2
LAST = END + 12
"""Seconds: long enough for what the end of the relay must set off."""

OFTEN_NEAR = {"hasty: rpm", "counted: rpm"}
"""Keys that always ask for more than they may. Of two calls a minute half is free again after thirty seconds."""
TRUTHS = (
    (FIRST - 1, "nothing is wrong", set[str](), set[str](), False),
    (
        *(CALM - 1, "thinker is slow and spender has nearly used up its day", {"thinker"}),
        *({"spender: requests_per_day"}, True),
    ),
)
"""When, in words, and what the overview has to name then: upstreams, keys with their limits, whether users notice."""


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass
class Firing:
    """One alert that fired: seconds from the start of the traffic."""

    since: float
    until: float | None = None


class Play:
    """One performance."""

    def __init__(self, stage: Stage, asked: Asked, factor: float) -> None:
        self._stage = stage
        self._asked = asked
        self._factor = factor
        self._began = asyncio.get_running_loop().time()
        self.fired: dict[tuple[str, str, str], Firing] = {}
        """By alert, subject and severity."""
        self.empty: list[str] = []
        self.answers: list[Answers] = []
        """At the moments of `TRUTHS`."""

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    async def run(self) -> None:
        due = [(fault.begins, True, fault) for fault in FAULTS]
        due += [(fault.ends, False, fault) for fault in FAULTS]
        due.sort(key=lambda item: (item[0], item[1]))
        asked = False
        while self.now() < LAST:
            while due and due[0][0] <= self.now():
                _, begins, fault = due.pop(0)
                tell(f"{self.now():6.1f} s  {'begins' if begins else 'ends  '}  {fault.what}")
                await (fault.begin if begins else fault.end)(self._stage)
            await self._look()
            instance = "{}:{}".format(*self._stage.relay.admin)
            if len(self.answers) < len(TRUTHS) and self.now() > TRUTHS[len(self.answers)][0]:
                self.answers.append(await answers(self._asked, instance))
            if not asked and self.now() > HEALED - 5:
                asked = True
                self.empty = await empty(self._asked, instance)
            await asyncio.sleep(PAUSE)

    async def _look(self) -> None:
        firing = {
            (labels["alertname"], subject_of(labels, self._stage.names), labels["severity"])
            for labels in await self._asked.firing()
        }
        for which in sorted(firing - self.fired.keys()):
            self.fired[which] = Firing(self.now())
            tell("{:6.1f} s  FIRES   {} {} ({}){}".format(self.now(), *which, self._after(which)))
        for which, found in self.fired.items():
            if which not in firing and found.until is None:
                found.until = self.now()
                tell("{:6.1f} s  over    {} {} ({})".format(self.now(), *which))
            elif which in firing:
                found.until = None

    def _after(self, which: tuple[str, str, str]) -> str:
        """How long after its fault that is, here and with the rules as they are shipped."""
        now = self.now()
        begins = [
            fault.begins
            for fault in FAULTS
            if which[:2] in (*fault.must, *fault.may) and fault.begins <= now
        ]
        if not begins:
            return ""
        after = now - max(begins)
        return f", {after:.1f} s after its fault: as shipped, {after * self._factor / 60:.0f} min"


def judged(play: Play) -> list[str]:
    """Everything that is not as it should be."""
    fired: dict[Subject, float] = {}
    for (name, subject, _), firing in play.fired.items():
        fired[name, subject] = min(firing.since, fired.get((name, subject), firing.since))
    wrong = [f"found no data: {query}" for query in play.empty]
    allowed: dict[Subject, float] = dict.fromkeys((*STANDING, *STARVED), 0.0)
    for fault in FAULTS:
        for each in (*fault.must, *fault.may):
            allowed[each] = min(fault.begins, allowed.get(each, fault.begins))
    wrong += [f"did not fire: {_words(due)}" for due in _due() if due not in fired]
    for (_, when, slow, near, noticed), found in zip(TRUTHS, play.answers, strict=True):
        said = (set(found.slow), set(found.near) - OFTEN_NEAR, found.noticed)
        if said != (slow, near, noticed):
            wrong.append(f"the overview does not say so when {when}: {'; '.join(found.lines())}")
    for which, since in fired.items():
        if which not in allowed:
            wrong.append(f"fired, and should not: {_words(which)} after {since:.1f} s")
        elif since < allowed[which]:
            wrong.append(f"fired before anything was wrong: {_words(which)} after {since:.1f} s")
    return wrong


def _due() -> list[Subject]:
    return [*STANDING, *(subject for fault in FAULTS for subject in fault.must)]


def _words(subject: Subject) -> str:
    return " ".join(subject).strip()


async def perform(factor: float, home: Path) -> Play:
    steady = Provider()
    async with (
        standing() as providers,
        steady.upstream,
        RelayProcess(fields(providers, WORKERS), home / "large") as relay,
        small.Small(small.fields(steady), home / "small") as other,
    ):
        visitors = small.Visitors(other)
        stage = Stage(
            *(relay, providers, Callers(relay), Callers(relay)),
            *(other, steady, visitors, small.Visitors(other)),
        )
        targets = {"relay": list(stage.names)}
        async with Prometheus(home / "prometheus", targets, factor) as prometheus:
            stage.callers.usual()
            visitors.usual()
            # Until it has scraped once it knows of no relay, and says so.
            await until(
                lambda: prometheus.asked.values(
                    'up == 1 unless on () ALERTS{alertname="RelayDown"}'
                )
            )
            play = Play(stage, prometheus.asked, factor)
            await play.run()
            return play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.observe")
    parser.add_argument(
        "--factor", type=float, default=60.0, help="the rules' times are divided by it"
    )
    factor = parser.parse_args().factor
    tell(
        f"Every window and every `for` of the rules is divided by {factor:g}: 5m is {300 / factor:g} s."
    )
    with TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("large", "small"):
            (home / name).mkdir()
        play = asyncio.run(perform(factor, home))
    wrong = judged(play)
    _summary(play)
    for line in wrong:
        tell("WRONG: " + line)
    return 1 if wrong else 0


def _summary(play: Play) -> None:
    tell("\n| alert | about | severity | fired after s | was over after s |\n|---|---|---|---|---|")
    for (name, subject, severity), each in sorted(
        play.fired.items(), key=lambda item: item[1].since
    ):
        until = "–" if each.until is None else f"{each.until:.1f}"
        tell(f"| {name} | {subject} | {severity} | {each.since:.1f} | {until} |")
    names = {alert.name for alert in shipped.alerts()}
    seen = {name for name, _, _ in play.fired}
    count = sum(1 for path in FOLDER.glob("*.json") for _ in queries(path))
    tell(f"\n{len(seen & names)} of {len(names)} alerts fired, for {len(FAULTS)} faults.")
    tell(
        f"{count - len(play.empty)} of {count} queries of {len(list(FOLDER.glob('*.json')))} dashboards found data."
    )
    for (at, when, *_), found in zip(TRUTHS, play.answers, strict=True):
        tell(f"\nThe overview after {at:g} s, when {when}:")
        for line in found.lines():
            tell(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
