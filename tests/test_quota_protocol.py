"""Several relays and the script on a real server, under any order of events: nothing is ever overspent.

Frames and answers are lost, come twice and come late; relays die; the server forgets everything; its clock is set.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from relay.admission.asking import StoreLease
from relay.admission.store import StoreGate
from relay.errors import BudgetSpent, RateLimited, StoreUnavailable
from tests.quota_rig import WALL, Limits
from tests.redis_rig import Call, RedisServer, Relays, Server

EXAMPLES = int(os.environ.get("RELAY_TEST_EXAMPLES", "60"))
RPM, TPM, BUDGET, PERMITS, TEAM = 12, 2_000, 2_500, 4, 4_000
LEASE_MS = 16_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with TemporaryDirectory() as folder, RedisServer(Path(folder)) as running:
        yield Server(running.client())


@dataclass(eq=False)
class Made:
    """One call of the model."""

    call: Call
    gate: StoreGate
    key: str
    tokens: int
    at: float
    """When it was admitted, true seconds."""
    day: int = 0
    actual: int | None = None
    dead: bool = False


class Protocol(RuleBasedStateMachine):
    server: Server

    @initialize(big=st.booleans())
    def begin(self, big: bool) -> None:
        self.server.ms, self.server.ahead = round(WALL * 1000), 0
        self.server.forget()
        self.scale = 20 if big else 1
        """Large limits are given out in slices, small ones are not."""
        limits = {
            "all": Limits(
                rpm=RPM * self.scale,
                tpm=TPM * self.scale,
                tokens_per_day=BUDGET * self.scale,
                concurrent=PERMITS * self.scale,
            ),
            "budget": Limits(tokens_per_day=BUDGET * self.scale),
        }
        members = {"all": "team", "budget": "team"}
        groups = {"team": Limits(tokens_per_day=TEAM * self.scale, tpm=TPM * self.scale)}
        self.limits, self.groups = limits, groups
        self.relays = Relays(self.server, limits, members, groups, count=3)
        for gate in self.relays.gates:
            gate.rates_open = False
        self.relays.heard()
        self.calls: list[Made] = []
        self.late: list[bytes] = []
        self.heard = {gate: self.relays.now for gate in self.relays.gates}
        self.beat = self.relays.now
        self.exact = True
        """Nothing was lost for good so far."""
        self.fragile = 0.0
        """Until then a relay that dies takes with it what nobody else knows."""

    # -- events --

    @rule(
        who=st.integers(0, 2),
        key=st.sampled_from(["all", "budget"]),
        share=st.integers(1, 80),
        count=st.integers(1, 4),
        fate=st.sampled_from([None, *["fine"] * 5, "lost", "unanswered"]),
    )
    def call(self, who: int, key: str, share: int, count: int, fate: str | None) -> None:
        gate = self.relays.gates[who]
        for _ in range(count * (5 if self.scale > 1 else 1)):
            tokens = share * 10
            call = self.relays.call(gate, key, tokens=tokens, worst=tokens)
            self.calls.append(Made(call, gate, key, tokens, self.relays.now))
        self._look()
        if fate is not None:
            self._exchange(gate, fate)

    @rule(
        who=st.integers(0, 2), fate=st.sampled_from(["fine", "fine", "fine", "lost", "unanswered"])
    )
    def exchange(self, who: int, fate: str) -> None:
        self._exchange(self.relays.gates[who], fate)

    def _exchange(self, gate: StoreGate, fate: str, report: bool = False) -> None:
        if gate.away:
            gate.back(self.relays.now)
        for _ in range(10):
            frame = self.relays.frame(gate, report)
            self.late = [*self.late[-20:], frame]
            if fate == "lost" or (answer := self.server.say(frame)) is None:
                gate.lost(self.relays.now, self.relays.wall)
                break
            if fate == "unanswered":
                gate.lost(self.relays.now, self.relays.wall)
                break
            self.relays.answer(gate, answer)
            self.heard[gate] = self.relays.now
            report = False
            if not gate.news(self.relays.now):
                break
        self._look()

    @rule(which=st.integers(0, 20))
    @precondition(lambda self: self.late)
    def a_frame_comes_late_or_twice(self, which: int) -> None:
        self.server.say(self.late[which % len(self.late)])

    @rule(heard=st.booleans())
    def recalls_are_heard(self, heard: bool) -> None:
        if heard:
            self.relays.recall()
        else:
            self.server.called()

    @rule(which=st.integers(0, 99), used=st.integers(0, 100), count=st.integers(1, 5))
    def settle(self, which: int, used: int, count: int) -> None:
        for _ in range(count):
            running = [made for made in self.calls if self._runs(made)]
            if running:
                self._settle(running[which % len(running)], used)

    def _settle(self, made: Made, used: int) -> None:
        made.actual = made.tokens * used // 100
        assert made.call.lease is not None
        made.call.lease.settle(self.relays.now, made.actual, 0)
        made.call.lease.settle(self.relays.now, 10**9, 0)

    @rule(ms=st.integers(1, 1500))
    def time_passes(self, ms: int) -> None:
        self.relays.passes(ms)
        if self.relays.now - self.beat >= 1:
            for gate in self.relays.gates:
                gate.beat(self.relays.now - self.beat)
            self.beat = self.relays.now
        for gate in self.relays.gates:
            if self.relays.now - self.heard[gate] > 6:
                # Who is silent for longer loses its leases: that is another test.
                self._exchange(gate, "fine", report=True)

    @rule()
    def midnight_comes(self) -> None:
        for gate in self.relays.gates:
            self._exchange(gate, "fine", report=True)
        self.server.ms = (self.server.ms // 86_400_000 + 1) * 86_400_000
        self.server.set_clock()
        self._exchange(self.relays.gates[0], "fine", report=True)

    @rule(who=st.integers(0, 2))
    @precondition(lambda self: self.relays.now > self.fragile)
    def a_relay_dies_and_comes_again(self, who: int) -> None:
        self.exact = False
        old = self.relays.gates[who]
        for made in self.calls:
            made.dead = made.dead or made.gate is old
        gate = self.relays.gates[who] = self.relays.new_gate()
        gate.rates_open = False
        self.heard[gate] = self.relays.now
        self._exchange(gate, "fine")

    @rule()
    def the_server_forgets_everything(self) -> None:
        self.server.forget()
        self.exact = False
        # All that were there come again before they die, or before they are 16 s silent.
        self.fragile = self.relays.now + LEASE_MS / 1000
        for made in self.calls:
            # What a dead one may have used is not known to anybody.
            made.dead = False if made.dead and made.actual is not None else made.dead

    @rule(ms=st.sampled_from([-3_600_000, 3_600_000, -800, 800]))
    def the_servers_clock_is_set(self, ms: int) -> None:
        gate = self.relays.gates[0]
        self._exchange(gate, "fine")
        self.server.ahead += ms
        self.server.set_clock()
        self._exchange(gate, "fine", report=True)

    # -- what holds --

    def _runs(self, made: Made) -> bool:
        lease = made.call.lease
        return not made.dead and lease is not None and lease.open

    def _look(self) -> None:
        """Who was admitted meanwhile: its moment, and its day as the authority has it."""
        for made in self.calls:
            lease = made.call.lease
            if made.day or not made.call.open or not isinstance(lease, StoreLease):
                continue
            made.at = self.relays.now
            for (stake, _), stamp in zip(lease.draw.entries, lease.taken, strict=True):
                if stake.name == "tokens_per_day":
                    made.day = stamp
            assert made.day

    @invariant()
    def budgets_hold(self) -> None:
        spent: dict[tuple[str, int], int] = defaultdict(int)
        for made in self.calls:
            if made.day:
                used = made.tokens if made.actual is None else made.actual
                spent[made.key, made.day] += used
                spent["team", made.day] += used
        for (owner, _), used in spent.items():
            most = TEAM if owner == "team" else BUDGET
            assert used <= most * self.scale, owner

    @invariant()
    def permits_hold(self) -> None:
        running = [made for made in self.calls if made.key == "all" and self._runs(made)]
        assert len(running) <= PERMITS * self.scale

    @invariant()
    def what_the_script_knows_adds_up(self) -> None:
        if self.relays.now <= self.fragile:
            return
        for owner, machines in self.server.accounts().items():
            limits: Any = self.groups["team"] if owner == "g:team" else self.limits[owner[2:]]
            for name, machine in machines.items():
                most = getattr(limits, name)
                assert machine["s"] >= 0
                rows = sum((machine["r"] or {}).values())
                dead = sum(row[0] for row in (machine.get("d") or {}).values())
                assert rows + dead == machine["s"]
                if "u" in machine:
                    assert machine["u"] >= 0
                    assert machine["u"] + machine["s"] * 60_000 <= most * 60_000
                else:
                    assert machine.get("p", 0) + machine["s"] <= most

    def teardown(self) -> None:
        if not hasattr(self, "calls"):
            return
        if self.exact:
            self._ends_exactly()
        admitted = [made for made in self.calls if made.day]
        for owner, most in (("all", TPM), ("team", TPM)):
            taken = [
                (made.at, made.tokens if made.actual is None else made.actual)
                for made in admitted
                if made.key == owner or owner == "team"
            ]
            self._window(taken, most * self.scale)
        self._window([(made.at, 1) for made in admitted if made.key == "all"], RPM * self.scale)
        for gate in self.relays.gates:
            for made in self.calls:
                if made.gate is gate and made.call.error_or_none() is not None:
                    kinds = (RateLimited, BudgetSpent, StoreUnavailable)
                    assert isinstance(made.call.error_or_none(), kinds)

    def _ends_exactly(self) -> None:
        """When all calls have ended and all is told, nothing is leased, and what was spent is what was used."""
        for _ in range(8):
            for made in self.calls:
                if self._runs(made):
                    self._settle(made, 50)
            self.relays.passes(1000)
            for gate in self.relays.gates:
                gate.beat(1.0)
                self._exchange(gate, "fine", report=True)
        self.relays.turn()
        spent: dict[tuple[str, int], int] = defaultdict(int)
        for made in self.calls:
            spent[f"k:{made.key}", made.day] += made.actual or 0
            spent["g:team", made.day] += made.actual or 0
        for owner, machines in self.server.accounts().items():
            for machine in machines.values():
                assert machine["s"] == 0, (owner, machine)
                if "e" in machine:
                    assert machine["p"] == spent[owner, machine["e"]], (owner, machine)

    def _window(self, taken: list[tuple[float, int]], limit: int) -> None:
        taken.sort()
        for first, (start, _) in enumerate(taken):
            total = 0
            for at, amount in taken[first:]:
                total += amount
                # Milliseconds are rounded, once for each frame.
                assert total * 60_000 <= limit * (60_000 + (at - start) * 1000 + 100)


@pytest.fixture(scope="module", autouse=True)
def _on(server: Server) -> None:
    Protocol.server = server


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    phases=[Phase.generate],
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
TestProtocol = pytest.mark.usefixtures("_on")(TestProtocol)
