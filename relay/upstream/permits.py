"""The permits of accounts with a `max_concurrent`, shared out to several workers: what each may have in flight.

The ledger is the authority's side (a worker's is `shares`). A worker that is full wants more; what is free is
granted, and when nothing is, the others are asked to give back what idles there. Rules that hold inside:
- a permit is held by one worker or by nobody, and what is granted never exceeds the limit;
- a want is answered once, with what could be had after everybody was asked: a call is refused only then;
- nothing is granted of an account before every worker that may hold some of it has said how much.
Pure: an `Order` is for whoever owns the links to carry out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

ANSWER: Final = "answer"
"""To a want: so many more."""
GRANT: Final = "grant"
"""Unasked: so many more."""
RECALL: Final = "recall"
"""Give back up to so many that idle; the answer is awaited."""
SHED: Final = "shed"
"""Too many are in use: begin nothing, and give back whatever is freed."""
KEEP: Final = "keep"
"""What you have left is yours again."""


LOOKS: Final = 4
"""How many looks a worker has to answer a recall; one that is too busy for it must not hold up the others."""


class Order(NamedTuple):
    """What a worker is to be told about an account."""

    worker: int
    kind: str
    account: str
    permits: int


class _Want:
    __slots__ = ("got", "missing", "worker")

    def __init__(self, worker: int, permits: int) -> None:
        self.worker = worker
        self.missing = permits
        self.got = 0


class _Account:
    """Who holds how much of one account, and who wants more."""

    __slots__ = ("asked", "held", "limit", "looks", "round", "shedding", "unheard", "wants")

    def __init__(self, limit: int, unheard: Iterable[int]) -> None:
        self.limit = limit
        self.held: dict[int, int] = {}
        self.wants: list[_Want] = []
        self.round: list[_Want] = []
        """The wants for which the others are asked just now."""
        self.asked: set[int] = set()
        """Workers that have not answered yet."""
        self.looks = 0
        """How often `impatient` has found them so."""
        self.shedding = False
        """More is held than the limit, which has fallen: it may only become less."""
        self.unheard = set(unheard)
        """Workers that may hold some and have not said so."""

    @property
    def free(self) -> int:
        return 0 if self.unheard else self.limit - sum(self.held.values())


class Ledger:
    """All accounts with a limit. Dies with the authority; the workers can tell a new one what they hold."""

    def __init__(self, workers: int, unheard: Iterable[int] = ()) -> None:
        """`unheard`: workers that run already and may hold permits."""
        self._workers = workers
        self._accounts: dict[str, _Account] = {}
        self._present: set[int] = set()
        self._unheard = set(unheard)

    def limits(self) -> dict[str, int]:
        return {name: account.limit for name, account in self._accounts.items()}

    def held(self, name: str) -> dict[int, int]:
        return dict(self._accounts[name].held)

    def configure(self, limits: Mapping[str, int]) -> list[Order]:
        """A configuration is in effect. Every worker present will `report` about accounts that are new to it."""
        orders: list[Order] = []
        for name in set(self._accounts) - set(limits):
            orders += self._close(name)
        for name, limit in limits.items():
            account = self._accounts.get(name)
            if account is None:
                self._accounts[name] = _Account(limit, self._present | self._unheard)
            else:
                account.limit = limit
                orders += self._go_on(name, account)
        return orders

    def joined(self, worker: int, held: Mapping[str, int]) -> list[Order]:
        """A worker is there: it has just started, or outlived another authority and tells what it holds."""
        self._present.add(worker)
        self._unheard.discard(worker)
        orders: list[Order] = []
        for name in self._accounts:
            orders += self.report(worker, name, held.get(name, 0))
        return orders

    def report(self, worker: int, name: str, permits: int) -> list[Order]:
        """So many of the account are in use there already. Who has said it once is known since."""
        account = self._accounts.get(name)
        if account is None or worker in account.held:
            return []
        account.held[worker] = permits
        waited = worker in account.unheard
        account.unheard.discard(worker)
        if account.unheard:
            return []
        orders = self._share_out(name, account, account.held if waited else (worker,))
        return orders + self._go_on(name, account)

    def lost(self, worker: int) -> list[Order]:
        """A worker is gone, and its connections with it: what it held is free."""
        self._present.discard(worker)
        self._unheard.discard(worker)
        orders: list[Order] = []
        for name, account in self._accounts.items():
            account.held.pop(worker, None)
            account.wants = [want for want in account.wants if want.worker != worker]
            account.round = [want for want in account.round if want.worker != worker]
            account.asked.discard(worker)
            account.unheard.discard(worker)
            orders += self._go_on(name, account)
        return orders

    def want(self, worker: int, name: str, permits: int) -> list[Order]:
        """So many calls wait there for a permit."""
        account = self._accounts.get(name)
        if account is None:
            # Configured away meanwhile: the worker will see it, too.
            return [Order(worker, ANSWER, name, 0)]
        account.wants.append(_Want(worker, permits))
        return self._go_on(name, account)

    def gave(self, worker: int, name: str, permits: int) -> list[Order]:
        """It gave back so many, asked or not; 0 is an answer, too."""
        account = self._accounts.get(name)
        if account is None:
            return []
        account.held[worker] = max(0, account.held.get(worker, 0) - permits)
        account.asked.discard(worker)
        return self._go_on(name, account)

    def impatient(self) -> list[Order]:
        """A clock's regular look: whoever was asked a few looks ago and has not answered does not answer."""
        orders: list[Order] = []
        for name, account in self._accounts.items():
            account.looks += 1
            if account.asked and account.looks > LOOKS:
                account.asked.clear()
                orders += self._go_on(name, account)
        return orders

    # -- inside --

    def _even(self, worker: int, limit: int) -> int:
        """The worker's part if all had the same."""
        return limit // self._workers + (worker % self._workers < limit % self._workers)

    def _share_out(self, name: str, account: _Account, workers: Iterable[int]) -> list[Order]:
        orders: list[Order] = []
        for worker in list(workers):
            more = self._even(worker, account.limit) - account.held[worker]
            more = min(more, account.free)
            if more > 0:
                account.held[worker] += more
                orders.append(Order(worker, GRANT, name, more))
        return orders

    def _shed(self, name: str, account: _Account) -> list[Order]:
        """Begins to shed when too much is held, and ends when it is not."""
        over = sum(account.held.values()) > account.limit
        if over == account.shedding:
            return []
        account.shedding = over
        kind = SHED if over else KEEP
        return [Order(worker, kind, name, 0) for worker in account.held]

    def _close(self, name: str) -> list[Order]:
        account = self._accounts.pop(name)
        return _answers(name, account.round + account.wants)

    def _go_on(self, name: str, account: _Account) -> list[Order]:
        """Grants what is free, in the order of the wants; then asks around, or answers."""
        if account.unheard:
            return []
        orders = self._shed(name, account)
        for want in account.round + account.wants:
            more = min(want.missing, account.free)
            if more > 0:
                want.missing -= more
                want.got += more
                account.held[want.worker] = account.held.get(want.worker, 0) + more
        done = [want for want in account.round + account.wants if not want.missing]
        account.round = [want for want in account.round if want.missing]
        account.wants = [want for want in account.wants if want.missing]
        recalls: list[Order] = []
        if not account.asked:
            done += account.round
            account.round, account.wants = account.wants, []
            missing = sum(want.missing for want in account.round)
            wanting = {want.worker for want in account.round}
            if missing:
                account.asked = {w for w, held in account.held.items() if held and w not in wanting}
            account.looks = 0
            recalls = [Order(worker, RECALL, name, missing) for worker in account.asked]
            if not recalls:
                done += account.round
                account.round = []
        return orders + _answers(name, done) + recalls


def _answers(name: str, wants: Iterable[_Want]) -> list[Order]:
    return [Order(want.worker, ANSWER, name, want.got) for want in wants]
