"""What one call reserved, and what it comes to: admission's two ends, seen from the call.

The worst case is reserved before an upstream is asked, and settled once, to the usage that was reported, else to an
estimate, else to nothing. Where the authority is another process the reservation `waits` for its answer, and the call
is told; to settle one that waits withdraws it.
"""

from __future__ import annotations

from time import monotonic

from relay.admission.gate import Applicant, Gate, Lease
from relay.call import Call
from relay.chatbody import ChatBody
from relay.errors import ModelNotPriced
from relay.pricing import Price
from relay.routes import Route
from relay.snapshot import NO_NEED, Snapshot
from relay.usage import Usage


class Bill:
    """The account of one call. Dies settled."""

    __slots__ = (
        "_bound",
        "_call",
        "_lease",
        "_memory",
        "_owed",
        "_parted",
        "caps_output",
        "limits_money",
        "price",
        "waits",
    )

    def __init__(
        self,
        call: Call,
        chat: ChatBody,
        route: Route,
        snapshot: Snapshot,
        gate: Gate,
        applicant: Applicant,
    ) -> None:
        """Reserves over all limits of the key at once. Raises the refusal, and has taken nothing then."""
        principal = call.principal
        purse = gate.purse(principal).of(route.name)
        self._call = call
        self._memory = route.memory
        self.price: Price | None = None
        """Of whoever was asked last, and in the end of who answers; may be set at any time."""
        self._parted: Usage | None = None
        self._owed = 0
        """What an upstream has taken that could not go on, and its nano-dollars."""
        need = NO_NEED
        self._bound = len(call.body)
        self.limits_money = purse.limits_money
        """A limit in dollars holds for this call: whatever answers it must have a price."""
        if self.limits_money and route.unpriced:
            raise ModelNotPriced(route.name)
        if purse.counts_tokens:
            self._bound = chat.prompt_bound(route.image_tokens)
            need = snapshot.need(route, chat, self._bound, money=purse.counts_money)
        self.caps_output = purse.caps_output and chat.max_tokens is None
        """An answer must not outgrow a budget that has reserved only so much for it."""
        lease = gate.reserve(
            principal, route.name, need, call.received, call.record.received, applicant
        )
        self._lease: Lease | None = lease
        self.waits = not lease.open
        """For the authority's answer, at first."""

    def estimate(self, events: int) -> Usage:
        """What a call comes to that nobody counted: a prompt as the model's others were, an event about a token."""
        return Usage(round(self._bound * self._memory.ratio), events, source="estimated")

    def part(self, usage: Usage) -> None:
        """Another upstream goes on: so far it comes to this. What is settled is the sum of both."""
        self._parted = usage
        self._owed = self._cost(usage)

    def settle(self, route: Route, *, spent: bool) -> None:
        """Turns the reservation into what was used; `spent`: an upstream worked, though it reported nothing."""
        lease = self._lease
        if lease is None:
            return
        self._lease = None
        record = self._call.record
        usage = record.usage
        if usage is None and spent and not self._waived():
            usage = self.estimate(record.events)
            record.usage = usage
        now = monotonic()
        if usage is None:
            lease.cancel(now)
            return
        earlier = self._parted
        if earlier is not None:
            record.cost = self._owed + self._cost(usage.beyond(earlier))
        else:
            record.cost = self._cost(usage)
            if usage.source == "reported":
                route.learn(self._bound, usage.input)
        lease.settle(now, usage.input + usage.output, record.cost)

    def _cost(self, usage: Usage) -> int:
        """Nano-dollars; 0 without a price."""
        price = self.price
        return 0 if price is None else price.cost(usage, self._call.record.received)

    def _waived(self) -> bool:
        """The client left before anything was delivered, and its key pays only for what is."""
        record = self._call.record
        if record.outcome != "client_cancelled" or record.events:
            return False
        return self._call.principal.abort_billing == "waive"
