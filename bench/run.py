"""Plays the rounds: in each, one program after the other, nginx first, all in one run on one machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import CACHE, cases, claims, growth, machine, tools
from bench.figures import Results, Sample, Skipped
from bench.peers import NGINX, PEERS, RELAY
from bench.peers.base import Absent, Peer
from bench.programs import ProgramError
from bench.rig import Rig, Running

STAGES = ("main", "claims", "growth")
BEFORE = (ProgramError, ArithmeticError, OSError)
"""What a case may fail with, without ending the run."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured."""

    rounds: int = 3
    pace: float = 1.0
    peers: Sequence[str] = ()
    """Empty: all that are installed."""
    stages: Sequence[str] = STAGES
    streams: int = 4000
    """Held, for the memory of one."""

    def told(self) -> dict[str, str]:
        return {
            "rounds": str(self.rounds),
            "pace": str(self.pace),
            "stages": " ".join(self.stages),
            "held streams": str(self.streams),
        }


class Run:
    """One run under way: collects samples, says how it goes on stderr."""

    def __init__(self, options: Options, home: Path) -> None:
        self.options = options
        self.home = home
        self.others: Callable[[], float] = lambda: 0.0
        self.results = Results(machine.describe(), {}, {}, options.told(), [], [])

    def play(self) -> Results:
        """All of it. An interrupt ends it early, with what there is."""
        machine.open_files()
        built = tools.build()
        cpus = machine.cpus()
        peers = [peer for peer in PEERS if self._wanted(peer)]
        with tools.Standin(built, cpus.standin, self.home / "standin") as standin:
            rig = Rig(built, standin, cpus, self.home, self.options.pace)
            self.others = rig.others
            try:
                self._stages(rig, peers)
            except KeyboardInterrupt:
                self._skip("the rest", "interrupted")
        return self.results

    def _stages(self, rig: Rig, peers: list[Peer]) -> None:
        self._keep(cases.self_check(rig, 0))
        for number in range(self.options.rounds):
            if "main" in self.options.stages:
                for peer in list(peers):
                    self._main(rig, peer, number)
            both = [peer for peer in (NGINX, RELAY) if peer in peers]
            if "claims" in self.options.stages:
                for peer in both:
                    self._claims(rig, peer, number)
            if "growth" in self.options.stages:
                for peer in both:
                    self._steps(f"growth of {peer.name}", growth.open_streams(rig, peer, number))
                    self._steps(f"growth of {peer.name}", growth.bodies(rig, peer, number))
                if RELAY in peers:
                    for step in (growth.endpoints, growth.keys, growth.workers):
                        self._steps(f"growth with {step.__name__}", step(rig, number))

    # --- stages -------------------------------------------------------------------------------

    def _main(self, rig: Rig, peer: Peer, number: int) -> None:
        played: list[Callable[[Rig, Running, int], Sample]] = [
            cases.plain,
            cases.events,
            cases.first_token,
        ]
        if number == 0 or peer in (NGINX, RELAY):
            played.append(cases.held(self.options.streams))
        try:
            with rig.running(
                peer.name,
                peer.launch,
                streams=self.options.streams + 200,
                patience_s=peer.patience_s,
            ) as running:
                self.results.versions[peer.name] = peer.version()
                self.results.kinds[peer.name] = peer.what
                cases.warm(rig, running)
                for case in played:
                    self._keep([case(rig, running, number)])
                    running.rest()
        except Absent as absent:
            self._skip(peer.name, str(absent))
        except BEFORE as error:
            self._skip(peer.name, str(error))

    def _claims(self, rig: Rig, peer: Peer, number: int) -> None:
        try:
            with rig.running(peer.name, peer.launch, streams=1000) as running:
                self._keep([cases.events_in_step(rig, running, number)])
                running.rest()
                self._keep(claims.streaming(rig, running, number))
                self._keep(claims.stalled(rig, running, number))
        except (Absent, *BEFORE) as error:
            self._skip(f"claims with {peer.name}", str(error))

    def _steps(self, what: str, steps: Iterator[Sample | Skipped]) -> None:
        try:
            for step in steps:
                if isinstance(step, Skipped):
                    self._skip(step.what, step.why)
                else:
                    self._keep([step])
        except (Absent, *BEFORE) as error:
            self._skip(what, str(error))

    # --- what there is ------------------------------------------------------------------------

    def _wanted(self, peer: Peer) -> bool:
        names = [name.lower() for name in self.options.peers]
        return not names or peer.name.lower() in names or peer is NGINX

    def _keep(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            self.results.samples.append(sample)
            sample.figures["others_cpus"] = self.others()
            figures = "  ".join(f"{name}={value:.4g}" for name, value in sample.figures.items())
            failed = f"  failed={sample.failed}" if sample.failed else ""
            where = f" {sample.point}" if sample.point else ""
            _say(f"{sample.round + 1} {sample.peer:14} {sample.case}{where}: {figures}{failed}")

    def _skip(self, what: str, why: str) -> None:
        skipped = Skipped(what, without_paths(why))
        if skipped not in self.results.skipped:
            self.results.skipped.append(skipped)
        _say(f"  {what}: {skipped.why}")


def without_paths(text: str) -> str:
    """A report goes public: it says nothing of where things lie on this machine."""
    return text.replace(str(CACHE), "…").replace(str(Path.home()), "…")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(options: Options) -> Results:
    """Measures; what was measured is also kept in the cache, whatever becomes of the report."""
    home = CACHE / "run"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    results = Run(options, home).play()
    (CACHE / "last.json").write_bytes(msgspec.json.encode(results))
    shutil.rmtree(home, ignore_errors=True)
    return results
