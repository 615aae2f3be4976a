"""Permits shared out to workers: never more than the limit in use, and none refused while one idles anywhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.upstream.directory import Directory
from relay.upstream.endpoint import Endpoint
from relay.upstream.permits import ANSWER, GRANT, KEEP, LOOKS, RECALL, SHED, Ledger, Order
from relay.upstream.queue import Queue, Ticket
from relay.upstream.shares import PATIENCE, Shares, limits_of

NAME = "acct"


def endpoint(directory: Directory, most: int | None, upstream: str = NAME) -> Endpoint:
    return directory.endpoint(
        upstream=upstream, base_url="http://h/v1", account=NAME, max_concurrent=most
    )


class Call:
    """Wants one permit; remembers what came of it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.answers = 0
        self.running = False

    def permits_came(self) -> None:
        self.answers += 1
        if self.worker.may_begin():
            self.begin()

    def begin(self) -> None:
        self.running = True
        self.worker.endpoint.begin(0.0)
        self.worker.calls.append(self)


class Worker:
    """One worker's side, whose words to the hub and back wait in queues."""

    def __init__(self, number: int, limit: int) -> None:
        self.number = number
        self.directory = Directory(shared_out=True)
        self.shares = Shares()
        self.calls: list[Call] = []
        self.said: deque[tuple[str, int]] = deque()
        self.told: deque[Order] = deque()
        self.configure(limit)

    def configure(self, limit: int | None) -> None:
        self.endpoint = endpoint(self.directory, limit)
        self.shares.configure([self.endpoint])

    @property
    def inflight(self) -> int:
        return self.endpoint.account.inflight

    def may_begin(self) -> bool:
        return self.inflight < self.endpoint.ceiling

    def come(self) -> Call:
        call = Call(self)
        if self.may_begin():
            call.begin()
        else:
            assert self.shares.wait([self.endpoint.account], call, 0.0)
        return call

    def go(self) -> None:
        if self.calls:
            self.calls.pop()
            account = self.endpoint.account
            account.inflight -= 1
            self.endpoint.inflight -= 1


class Crew:
    """A ledger, its workers, and the links between them."""

    def __init__(self, workers: int, limit: int) -> None:
        self.count = workers
        self.limit = limit
        self.ledger = Ledger(workers)
        self.ledger.configure({NAME: limit})
        self.workers = {number: Worker(number, limit) for number in range(workers)}
        for number in self.workers:
            self.obey(self.ledger.joined(number, {}))
        self.settle()

    def obey(self, orders: list[Order]) -> None:
        for order in orders:
            if order.worker in self.workers:
                self.workers[order.worker].told.append(order)

    def hear(self, worker: Worker) -> bool:
        """One frame from a worker."""
        shares = worker.shares
        if not (shares.gave or shares.wants or shares.reports):
            return False
        reports, shares.reports = shares.reports, []
        gave, shares.gave = shares.gave, []
        wants, shares.wants = shares.wants, []
        for name, permits in reports:
            self.obey(self.ledger.report(worker.number, name, permits))
        for name, permits in gave:
            self.obey(self.ledger.gave(worker.number, name, permits))
        for name, permits in wants:
            self.obey(self.ledger.want(worker.number, name, permits))
        return True

    def tell(self, worker: Worker) -> bool:
        """One order to a worker."""
        if not worker.told:
            return False
        _, kind, name, permits = worker.told.popleft()
        shares = worker.shares
        act: dict[str, Callable[[], None]] = {
            ANSWER: lambda: shares.answered(name, permits),
            GRANT: lambda: shares.granted(name, permits),
            RECALL: lambda: shares.recalled(name, permits),
            SHED: lambda: shares.shed(name),
            KEEP: lambda: shares.kept(name),
        }
        act[kind]()
        return True

    def settle(self) -> None:
        moved = True
        while moved:
            moved = False
            for worker in self.workers.values():
                worker.shares.beat(0.0)
                moved |= self.hear(worker) | self.tell(worker)

    def die(self, number: int) -> None:
        del self.workers[number]
        self.obey(self.ledger.lost(number))
        self.workers[number] = Worker(number, self.limit)
        self.obey(self.ledger.joined(number, {}))

    def hub_dies(self) -> None:
        self.ledger = Ledger(self.count, self.workers)
        self.ledger.configure({NAME: self.limit})
        for worker in self.workers.values():
            worker.told.clear()
            held = worker.shares.held()
            worker.shares.ask_again()
            self.obey(self.ledger.joined(worker.number, held))

    def relimit(self, limit: int) -> None:
        self.limit = limit
        self.obey(self.ledger.configure({NAME: limit}))
        for worker in self.workers.values():
            while self.tell(worker):
                pass
            worker.configure(limit)

    def do(self, what: str, worker: Worker) -> None:
        acts: dict[str, Callable[[], object]] = {
            "come": worker.come,
            "go": worker.go,
            "hear": lambda: self.hear(worker),
            "tell": lambda: self.tell(worker),
            "beat": lambda: worker.shares.beat(0.0),
            "die": lambda: self.die(worker.number),
            "hub": self.hub_dies,
            "look": self.look,
        }
        acts[what]()

    def look(self) -> None:
        for _ in range(LOOKS + 1):
            self.obey(self.ledger.impatient())

    @property
    def inflight(self) -> int:
        return sum(worker.inflight for worker in self.workers.values())

    @property
    def held(self) -> int:
        return sum(self.ledger.held(NAME).values())


steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["come"] * 6 + ["go"] * 4 + ["hear"] * 6 + ["tell"] * 6 + ["beat", "die", "hub", "look"]
        ),
        st.integers(0, 3),
    ),
    max_size=120,
)


@settings(max_examples=300, deadline=None)
@given(limit=st.integers(0, 9), workers=st.integers(2, 4), plan=steps)
def test_never_more_than_the_limit_runs_whatever_happens_in_which_order(
    limit: int, workers: int, plan: list[tuple[str, int]]
) -> None:
    crew = Crew(workers, limit)
    for what, number in plan:
        crew.do(what, crew.workers[number % workers])
        assert crew.inflight <= limit
        assert crew.held <= limit

    crew.settle()
    for worker in crew.workers.values():
        while worker.calls:
            worker.go()
    crew.settle()
    one = crew.workers[0]
    calls = [one.come() for _ in range(limit + 1)]
    crew.settle()

    assert [call.running for call in calls].count(True) == limit, "all of it can be used by one"


@settings(max_examples=100, deadline=None)
@given(
    before=st.integers(1, 9), after=st.integers(1, 9), busy=st.lists(st.integers(0, 2), max_size=12)
)
def test_a_new_limit_holds_for_whatever_begins_after_it(
    before: int, after: int, busy: list[int]
) -> None:
    crew = Crew(3, before)
    for number in busy:
        crew.workers[number].come()
        crew.settle()
    running = crew.inflight

    crew.relimit(after)
    for _ in range(12):
        for worker in crew.workers.values():
            before_it = crew.inflight
            worker.come()
            crew.settle()
            assert crew.inflight <= max(after, before_it), "nothing begins above the limit"
            worker.go()
            crew.settle()
    assert crew.inflight <= max(after, running)

    while crew.inflight:
        for worker in crew.workers.values():
            worker.go()
    crew.settle()
    calls = [crew.workers[1].come() for _ in range(after + 2)]
    crew.settle()
    assert [call.running for call in calls].count(True) == after


def test_the_first_split_is_even_and_sums_to_the_limit() -> None:
    crew = Crew(4, 7)

    assert [worker.endpoint.ceiling for worker in crew.workers.values()] == [2, 2, 2, 1]


def test_a_call_waits_for_one_answer_and_is_told_once() -> None:
    crew = Crew(2, 2)
    first, second, third = (crew.workers[0].come() for _ in range(3))

    assert (first.running, second.running, third.running) == (True, False, False)
    crew.settle()

    assert (second.running, third.running) == (True, False)
    assert (second.answers, third.answers) == (1, 1)


def test_a_worker_that_answers_nothing_does_not_hold_up_the_others() -> None:
    crew = Crew(2, 2)
    crew.workers[0].come()
    waiting = crew.workers[0].come()
    crew.hear(crew.workers[0])

    for _ in range(LOOKS):
        crew.obey(crew.ledger.impatient())
    early = crew.tell(crew.workers[0])
    crew.obey(crew.ledger.impatient())
    crew.tell(crew.workers[0])

    assert not early
    assert (waiting.answers, waiting.running) == (1, False)


def test_a_call_that_nobody_answers_goes_on_with_what_there_is() -> None:
    crew = Crew(2, 2)
    crew.workers[0].come()
    waiting = crew.workers[0].come()

    crew.workers[0].shares.beat(PATIENCE - 0.01)
    early = waiting.answers
    crew.workers[0].shares.beat(PATIENCE)
    crew.settle()

    assert (early, waiting.answers) == (0, 1)


class Standing:
    """A call in line."""

    def place_came(self) -> None:
        raise AssertionError("the loop of this test does not turn")


def test_permits_are_asked_for_at_every_beat_while_calls_stand_in_line() -> None:
    soon: list[Callable[[], None]] = []
    full = endpoint(Directory(shared_out=True), 2)
    shares = Shares()
    shares.configure([full])
    shares.granted(NAME, 1)
    full.begin(0.0)
    queue = full.account.queue = Queue(full.account, soon.append)
    queue.max_calls = 9
    assert Ticket(Standing(), "k", 1, [full]).enter()

    shares.beat(1.0)
    shares.beat(1.05)
    assert shares.wants == [(NAME, 1)], "one question at a time"
    shares.answered(NAME, 0)
    shares.beat(1.1)
    assert shares.wants == [(NAME, 1)] * 2
    shares.answered(NAME, 1)

    assert len(soon) == 1, "the place is the waiting call's"
    assert full.account.inflight == full.ceiling == 2


def test_an_account_without_a_limit_is_not_shared_out() -> None:
    free = endpoint(Directory(shared_out=True), None)

    assert free.ceiling > 10**9


def test_of_two_limits_of_one_account_the_smaller_holds_in_proportion() -> None:
    directory = Directory(shared_out=True)
    wide, narrow = endpoint(directory, 10), endpoint(directory, 4, "other")
    shares = Shares()
    shares.configure([wide, narrow])

    shares.granted(NAME, 5)

    assert limits_of([wide, narrow]) == {NAME: 10}
    assert (wide.ceiling, narrow.ceiling) == (5, 2)


def test_an_account_that_gets_a_limit_while_it_is_used_counts_what_runs() -> None:
    crew = Crew(2, 3)
    crew.ledger.configure({})
    for worker in crew.workers.values():
        worker.configure(None)
    for _ in range(5):
        crew.workers[0].come()

    crew.relimit(6)
    crew.settle()
    late = [crew.workers[1].come() for _ in range(3)]
    crew.settle()

    assert crew.inflight == 6
    assert [call.running for call in late].count(True) == 1


@pytest.mark.parametrize("limit", [0, 1])
def test_a_share_of_nothing_is_a_share(limit: int) -> None:
    crew = Crew(3, limit)
    calls = [crew.workers[2].come() for _ in range(2)]
    crew.settle()

    assert [call.running for call in calls].count(True) == limit
