"""One attempt on a member of a plane, whose words the test hears and whose upstream it plays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

from relay.sse import Event
from relay.upstream.attempt import Attempt, Tools
from relay.upstream.connections import Connections
from relay.upstream.dial import Dialer, Target
from relay.upstream.failures import Failure, Retry
from relay.upstream.pool import Member
from relay.upstream.request import Request
from relay.upstream.wire import Connection
from relay.usage import Usage
from tests.plane import Plane, play, turn
from tests.rig import scripts as say
from tests.wires import Provider

FREE, PAID, NEVER = Retry.FREE, Retry.PAID, Retry.NEVER


class Judge:
    """Whom the attempt reports to: remembers every word."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.failure: Failure | None = None
        self.events: list[bytes] = []
        self.body = b""
        self.usage: Usage | None = None
        self.news = asyncio.Event()

    def _say(self, word: str) -> None:
        self.words.append(word)
        self.news.set()

    def broke(self) -> None:
        self._say("broke")

    def attempt_failed(self, attempt: Attempt, failure: Failure) -> None:
        self.failure = failure
        self._say("failed")

    def connection_was_stale(self, member: Member) -> None:
        self._say("stale")

    def stream_committed(self, attempt: Attempt, events: list[Event]) -> None:
        self.events = [event.raw for event in events]
        self._say("committed")

    def answer_complete(self, attempt: Attempt, body: bytes, usage: Usage | None) -> None:
        self.body, self.usage = body, usage
        self._say("complete")

    def answer_large(self, attempt: Attempt, body: bytes) -> None:
        self.body = body
        self._say("large")


class HeldDialer:
    """Dials that the test answers."""

    def __init__(self) -> None:
        self.waiters: list[Callable[[Connection | None, str], None]] = []
        self.cancelled = 0

    def dial(
        self, target: Target, pool: Connections, waiter: Callable[[Connection | None, str], None]
    ) -> HeldDialer:
        self.waiters.append(waiter)
        return self

    def cancel(self) -> None:
        self.cancelled += 1


class Trial:
    """An attempt on a member of a plane, over a connection the test plays."""

    def __init__(self, plane: Plane, *, stream: bool, kept: bool = True) -> None:
        self.plane = plane
        self.judge = Judge()
        self.dialer = HeldDialer()
        tools = Tools(cast(Dialer, self.dialer), plane.wheel)
        self.member = plane.snapshot.routes["m"].pool.members[0]
        self.request = Request(b"x-forwarded: 1\r\n", b'{"prompt":1}', stream)
        self.provider: Provider | None = plane.provider() if kept else None
        self.attempt = Attempt(tools, self.judge, self.member, self.request, plane.snapshot.scrub)

    def start(self, patience: float = 30.0) -> Provider:
        now = asyncio.get_running_loop().time()
        self.attempt.start(now, now + patience)
        return cast(Provider, self.provider)

    def fresh(self) -> Provider:
        """A connection that has just been made, as a dial would give it."""
        pool = cast(Connections, self.member.endpoint.connections)
        connection = Connection(pool, asyncio.get_running_loop().time())
        pool.made(connection)
        return Provider(connection)

    def label(self) -> str | None:
        return None if self.judge.failure is None else self.judge.failure.result

    def clean(self) -> None:
        """Nothing of it is left."""
        assert self.attempt.over
        assert self.member.endpoint.inflight == 0
        assert self.plane.waiting() == []


def play_trial(test: Callable[[Trial], None], *, stream: bool = True) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            trial = Trial(plane, stream=stream)
            test(trial)
            await turn()
            connection = trial.attempt.take()[0]
            if connection is not None:
                connection.close()
                trial.attempt.close("ok", None)

    play(scene())


def answer(
    status: int, body: object, kind: bytes = b"application/json", more: bytes = b""
) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n"
    return head % (status, kind, len(raw), more) + raw


def error(code: object = None, kind: str = "x") -> dict[str, Any]:
    return {"error": {"message": "m", "type": kind, "param": None, "code": code}}


def sse(*events: bytes) -> bytes:
    return say.SSE_HEAD + b"".join(map(say.frame, events)) + say.LAST_CHUNK
