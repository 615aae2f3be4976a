"""A worker's part of the permits of accounts with a `max_concurrent`; the authority's side is `permits`.

`Account.share` is how many attempts this worker may have in flight. A call that finds nobody because of it waits
while the authority is asked, and then picks again. Pure: what is to be said gathers in `wants`, `gave` and `reports`;
`wake` is called when the first of it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from relay.upstream.account import Account
from relay.upstream.endpoint import Endpoint

PATIENCE: Final = 1.0
"""Seconds a call waits for the authority; then it takes things as they are here."""


class Caller(Protocol):
    """A call that waits for a permit."""

    def permits_came(self) -> None:
        """The authority has answered: pick again, and this time with what there is. Called once per `wait`."""


class _Wait:
    """One call's wait, for permits of one account or several."""

    __slots__ = ("answers", "caller", "over", "since")

    def __init__(self, caller: Caller, answers: int, since: float) -> None:
        self.caller = caller
        self.answers = answers
        """Still to come."""
        self.since = since
        self.over = False

    def answered(self, granted: bool) -> None:
        self.answers -= 1
        if not self.over and (granted or not self.answers):
            self.end()

    def end(self) -> None:
        if not self.over:
            self.over = True
            self.caller.permits_came()


class _Share:
    """One account's."""

    __slots__ = ("account", "asking", "begging", "endpoints", "held", "waits")

    def __init__(self, account: Account, held: int) -> None:
        self.account = account
        self.held = held
        """What the authority counts as ours: `account.share`; while it is shed, what is in flight."""
        self.endpoints: list[Endpoint] = []
        self.waits: list[_Wait] = []
        self.asking: list[_Wait] = []
        """Those for whom the authority is asked just now."""
        self.begging = False
        """It is asked for calls that stand in line."""

    def resize(self, share: int) -> None:
        self.account.share = share
        for endpoint in self.endpoints:
            endpoint.bound()


class Shares:
    """All accounts with a limit. Lives as long as the process."""

    __slots__ = ("_shares", "gave", "reports", "wake", "wants")

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}
        self.wants: list[tuple[str, int]] = []
        self.gave: list[tuple[str, int]] = []
        self.reports: list[tuple[str, int]] = []
        """(account, permits), all three."""
        self.wake: Callable[[], None] = _nothing

    def configure(self, endpoints: Iterable[Endpoint]) -> None:
        """A configuration is in effect. An account that had no limit reports what is in flight already."""
        limited: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            if endpoint.max_concurrent is not None:
                limited.setdefault(endpoint.account.name, []).append(endpoint)
        for name in [name for name in self._shares if name not in limited]:
            share = self._shares.pop(name)
            share.account.share = 0
            for wait in share.asking + share.waits:
                wait.answered(False)
        limits = limits_of(each for found in limited.values() for each in found)
        for name, found in limited.items():
            account = found[0].account
            known = self._shares.get(name)
            if known is None or known.account is not account:
                known = self._shares[name] = _Share(account, account.inflight)
                account.share = account.inflight
                self.reports.append((name, known.held))
                self.wake()
            known.endpoints = found
            account.whole = max(1, limits[name])
            known.resize(account.share)

    def held(self) -> dict[str, int]:
        """What is ours, for an authority that begins anew."""
        return {name: share.held for name, share in self._shares.items()}

    def wait(self, accounts: Sequence[Account], caller: Caller, now: float) -> bool:
        """Asks for a permit of any of these accounts. False if a reload has taken all of them away."""
        found = [share for a in accounts if (share := self._shares.get(a.name)) is not None]
        wait = _Wait(caller, len(found), now)
        for share in found:
            share.waits.append(wait)
            self._ask(share.account.name, share)
        return bool(found)

    def _ask(self, name: str, share: _Share) -> None:
        """One want at a time; who comes meanwhile waits for the next."""
        if share.asking or share.begging or not share.waits:
            return
        share.asking, share.waits = share.waits, []
        self.wants.append((name, len(share.asking)))
        self.wake()

    # -- what the authority says --

    def answered(self, name: str, permits: int) -> None:
        share = self._shares.get(name)
        if share is None:
            return
        share.begging = False
        self._grow(share, permits)
        asking, share.asking = share.asking, []
        for place, wait in enumerate(asking):
            wait.answered(place < permits)
        self._ask(name, share)

    def granted(self, name: str, permits: int) -> None:
        share = self._shares.get(name)
        if share is not None:
            self._grow(share, permits)

    def recalled(self, name: str, permits: int) -> None:
        """Others want permits: half of what idles goes, and as much as they need if it is there."""
        share = self._shares.get(name)
        back = 0
        if share is not None:
            idle = max(0, share.account.share - share.account.inflight)
            back = min(idle, max(permits, idle // 2))
            share.resize(share.account.share - back)
            share.held -= back
        self.gave.append((name, back))
        self.wake()

    def shed(self, name: str) -> None:
        """All workers together hold too many: nothing begins here, and what is freed goes back."""
        share = self._shares.get(name)
        if share is not None:
            share.resize(0)
            self._give_back(name, share)

    def kept(self, name: str) -> None:
        """They do no longer."""
        share = self._shares.get(name)
        if share is not None:
            share.resize(share.held)

    # -- told by a clock --

    def beat(self, now: float) -> None:
        """Gives back what was shed and is free by now; ends waits that nobody answers."""
        for name, share in list(self._shares.items()):
            self._give_back(name, share)
            for wait in share.asking + share.waits:
                if now >= wait.since + PATIENCE:
                    wait.end()
            share.waits = [wait for wait in share.waits if not wait.over]
            self._beg(name, share)

    def ask_again(self) -> None:
        """The authority that was asked is gone."""
        self.wants, self.gave, self.reports = [], [], []
        for name, share in self._shares.items():
            share.waits = [wait for wait in share.asking + share.waits if not wait.over]
            share.asking = []
            share.begging = False
            share.resize(share.held)
            self._ask(name, share)

    def _beg(self, name: str, share: _Share) -> None:
        """Permits that fall idle in another worker while calls stand in line here are asked for at every beat."""
        queue = share.account.queue
        if queue is not None and queue.waiting and not (share.asking or share.begging):
            share.begging = True
            self.wants.append((name, queue.waiting))
            self.wake()

    def _give_back(self, name: str, share: _Share) -> None:
        back = share.held - max(share.account.share, share.account.inflight)
        if back > 0:
            share.held -= back
            self.gave.append((name, back))
            self.wake()

    def _grow(self, share: _Share, permits: int) -> None:
        if permits:
            share.held += permits
            share.resize(share.account.share + permits)


def limits_of(endpoints: Iterable[Endpoint]) -> dict[str, int]:
    """The permits of each account that has a limit: it is the same for all its endpoints, see `Config.most_at_once`."""
    limits: dict[str, int] = {}
    for endpoint in endpoints:
        if endpoint.max_concurrent is not None:
            name = endpoint.account.name
            limits[name] = max(limits.get(name, 0), endpoint.max_concurrent)
    return limits


def _nothing() -> None:
    pass
