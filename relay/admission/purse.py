"""What calls draw on: the limits of a key and of its group, as the calls to one model see them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from relay.admission.budgets import DAYS, MONTHS
from relay.admission.memory import (
    COST,
    LIMITS,
    REQUESTS,
    TOKENS_WORST,
    Account,
    limit_of,
    model_of,
)
from relay.admission.period import Period
from relay.admission.refusals import Named, go_duration
from relay.admission.windows import Machine, TokenBucket

YOUR_KEY: Final = "your key"
_GROUP: Final = "your key's group"

_REQUESTS_NAMES: Final = (
    b"x-ratelimit-limit-requests: ",
    b"\r\nx-ratelimit-remaining-requests: ",
    b"\r\nx-ratelimit-reset-requests: ",
)
_TOKENS_NAMES: Final = (
    b"x-ratelimit-limit-tokens: ",
    b"\r\nx-ratelimit-remaining-tokens: ",
    b"\r\nx-ratelimit-reset-tokens: ",
)


class Purse:
    """The limits a principal draws on, its own and its group's. Lives until the next reload."""

    __slots__ = (
        "_group",
        "_key",
        "_model",
        "_narrowed",
        "_own",
        "_requests",
        "_tokens",
        "caps_output",
        "counts_money",
        "counts_tokens",
        "entries",
        "limits_money",
        "machines",
        "periods",
    )

    def __init__(self, key: Account, group: Account | None, model: str | None = None) -> None:
        """Without a model: as calls see it whose model has no limits of its own."""
        self._key = key
        self._group = group
        self._model = model
        self.machines = tuple(self._every())
        """All of them, whatever model they are for: whose, name, machine, unit."""
        self._own = {model_of(name) for _, name, _, _ in self.machines} - {None}
        self._narrowed: dict[str, Purse] = {}
        named = list(self.named())
        self.entries: tuple[tuple[Machine, int], ...] = tuple(
            (machine, unit) for _, _, machine, unit in named
        )
        """Every machine that counts such a call, with the unit it counts: what `reserve` walks."""
        units = {unit for _, unit in self.entries}
        self.counts_tokens = bool(units - {REQUESTS})
        """Something here depends on how long a call is."""
        self.counts_money = COST in units
        self.caps_output = any(
            unit in (TOKENS_WORST, COST) for machine, unit in self.entries if not machine.shadow
        )
        """An answer that grew past its reservation would overspend."""
        self.limits_money = any(unit == COST and not m.shadow for m, unit in self.entries)
        """What a call costs may refuse it."""
        self.periods = 0
        """Of the budgets that refuse, whether there are some per day and per month: the bits of `Budgets.away`."""
        for machine, _ in self.entries:
            if isinstance(machine, Period) and not machine.shadow:
                self.periods |= MONTHS if machine.is_month else DAYS
        self._requests = self._buckets("rpm")
        self._tokens = self._buckets("tpm")

    def of(self, model: str) -> Purse:
        """As calls to this model see it."""
        if model not in self._own:
            return self
        narrowed = self._narrowed.get(model)
        if narrowed is None:
            narrowed = self._narrowed[model] = Purse(self._key, self._group, model)
        return narrowed

    def named(self) -> Iterator[Named]:
        """The machines of `entries` with what they are called."""
        return (one for one in self.machines if model_of(one[1]) in (None, self._model))

    def headers(self, tick: int) -> bytes:
        """The `x-ratelimit-*` lines, of the tighter of key and group; empty without rates."""
        lines = b""
        if self._requests:
            lines = _tightest(_REQUESTS_NAMES, self._requests, tick)
        if self._tokens:
            lines += _tightest(_TOKENS_NAMES, self._tokens, tick)
        return lines

    def _every(self) -> Iterator[Named]:
        for owner, account in ((YOUR_KEY, self._key), (_GROUP, self._group)):
            if account is not None:
                for name, machine in account.machines.items():
                    yield owner, name, machine, LIMITS[limit_of(name)][0]

    def _buckets(self, limit: str) -> tuple[TokenBucket, ...]:
        """Those that a client is told of: one that refuses nobody would only make it slow down."""
        return tuple(
            machine
            for _, name, machine, _ in self.named()
            if limit_of(name) == limit and isinstance(machine, TokenBucket) and not machine.shadow
        )


def _tightest(
    names: tuple[bytes, bytes, bytes], buckets: tuple[TokenBucket, ...], tick: int
) -> bytes:
    """The lines with limit, remaining and reset of the bucket with least left."""
    bucket = buckets[0]
    left, full_in = bucket.state(tick)
    for other in buckets[1:]:
        state = other.state(tick)
        if state[0] < left:
            bucket, (left, full_in) = other, state
    limit, remaining, reset = names
    parts = (
        limit,
        str(bucket.limit).encode(),
        remaining,
        str(left).encode(),
        reset,
        go_duration(full_in),
        b"\r\n",
    )
    return b"".join(parts)
