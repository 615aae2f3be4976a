"""A Redis of the test's own, and relays' gates that speak to it frame by frame, as the test says.

The script under test is the one that ships, but for its clock: there the test's own time stands in a key.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from relay.admission.gate import Lease, Need
from relay.admission.principals import Principals
from relay.admission.store import StoreGate
from relay.errors import RelayError
from relay.quota import script
from tests.quota_rig import NOW, WALL, Limits, configure
from tests.rig.sdks import absent

CLOCK = "{relay}:clock"
SERVER = ("redis-server", "valkey-server")
START = 10.0


def program() -> str | None:
    """The server that is installed here."""
    return next(filter(None, map(shutil.which, SERVER)), None)


def binary() -> str:
    """Skips the test where there is none, but not in CI."""
    found = program()
    if found is None:
        absent("redis-server is missing: `apt-get install redis-server`")
    assert found is not None
    return found


@cache
def with_debug() -> tuple[str, ...]:
    """The option that allows DEBUG to tests; Redis 6 asks for none, and would not know it."""
    told = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True)
    major = int(told.stdout.split(" v=")[1].split(".")[0])
    return () if major < 7 else ("--enable-debug-command", "yes")


class RedisServer:
    """One server on a socket in a folder of the test's, and on a port if one is given."""

    def __init__(self, folder: Path, *options: str, port: int = 0, sentinel: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # A socket's path has 107 signs at the most, a test's folder may have more.
        self._home = TemporaryDirectory(prefix="redis-")
        self.socket = Path(self._home.name) / "socket"
        self.port = port
        self._options = options
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                *(binary(), *self._mode()),
                *("--port", str(self.port), "--unixsocket", str(self.socket)),
                *("--dir", str(self.folder), "--save", "", "--loglevel", "warning"),
                *("--logfile", str(self.folder / "log")),
                *(*with_debug(), *self._options),
            ],
            stdin=subprocess.DEVNULL,
        )
        client = self.client(retry=Retry(NoBackoff(), 0))
        for _ in range(int(START * 1000)):
            if self._answers(client):
                return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.005)
                raise AssertionError((self.folder / "log").read_text())

    def _mode(self) -> tuple[str, ...]:
        if not self._sentinel:
            return ()
        # It wants a file that it may write to, and wants it first.
        file = self.folder / "sentinel.conf"
        file.touch()
        return (str(file), "--sentinel")

    @staticmethod
    def _answers(client: redis.Redis) -> bool:
        try:
            client.ping()
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False
        return True

    def in_step(self) -> None:
        """Returns when this replica has all of its master."""
        client = self.client()
        while client.info("replication").get("master_link_status") != "up":
            pass

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), **options)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._home.cleanup()

    async def __aenter__(self) -> RedisServer:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.__exit__)


class Call:
    """Asks once; remembers what it was told."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.told: list[RelayError | None] = []

    def admitted(self) -> None:
        self.told.append(None)

    def refused(self, error: RelayError) -> None:
        self.told.append(error)

    @property
    def open(self) -> bool:
        """It was admitted."""
        return self.told == [None]

    def error_or_none(self) -> RelayError | None:
        return self.told[0] if self.told else None

    @property
    def error(self) -> RelayError:
        (error,) = self.told
        assert error is not None
        return error


class Server:
    """The script on a server, with the time that the test tells."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        text = script.source()
        assert text.count("redis.call('TIME')") == 1
        self._run = client.register_script(
            text.replace("redis.call('TIME')", f"redis.call('LRANGE', '{CLOCK}', 0, 1)")
        )
        self.ms = round(WALL * 1000)
        self.ahead = 0
        """Milliseconds by which the server's clock is wrong."""
        self._calls: Any = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._calls.subscribe(script.channel(""))
        self.forget()

    def forget(self) -> None:
        """All of it is gone, and nobody knows."""
        self.client.flushall()
        self.set_clock()

    def set_clock(self) -> None:
        told = self.ms + self.ahead
        with self.client.pipeline() as pipe:
            pipe.delete(CLOCK)
            pipe.rpush(CLOCK, told // 1000, told % 1000 * 1000)
            pipe.execute()

    def called(self) -> list[tuple[str, str, int]]:
        """What the script has called out since."""
        found = []
        while (message := self._calls.get_message()) is not None:
            found.append(msgspec.msgpack.decode(message["data"], type=tuple[str, str, int]))
        return found

    def accounts(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What the script knows: by owner and name of the limit."""
        start = f"{script.TAG}:a:"
        found = {}
        for key in self.client.scan_iter(f"{start}*"):
            raw: Any = self.client.get(key)
            found[key.decode().removeprefix(start)] = msgspec.msgpack.decode(raw)
        return found

    def say(self, frame: bytes) -> bytes:
        answer = self._run(keys=[script.meta_key("")], args=[frame])
        assert isinstance(answer, bytes)
        return answer


class Relays:
    """Several relays' gates on one server. Time passes for all of them when the test says so."""

    _names = itertools.count(1)

    def __init__(
        self,
        server: Server,
        keys: dict[str, Limits],
        members: dict[str, str] | None = None,
        groups: dict[str, Limits] | None = None,
        count: int = 1,
    ) -> None:
        self.server = server
        self.principals, self.groups = configure(keys, members, groups)
        self.now = NOW
        self.mark = "server-1"
        self.gates = [self.new_gate() for _ in range(count)]

    def new_gate(self) -> StoreGate:
        return StoreGate(self.principals, self.groups, lambda: f"n{next(self._names):x}")

    @property
    def wall(self) -> float:
        return self.server.ms / 1000

    def passes(self, ms: int) -> None:
        self.now += ms / 1000
        self.server.ms += ms
        self.server.set_clock()

    def frame(self, gate: StoreGate, report: bool = False) -> bytes:
        return script.encoded(gate.frame(self.now, self.mark, report))

    def answer(self, gate: StoreGate, answer: bytes) -> bool:
        return gate.answer(script.decoded(answer), self.now, self.wall)

    def turn(self, gate: StoreGate | None = None, report: bool = False) -> None:
        """What is to be said is said and answered, until all is said."""
        for each in self.gates if gate is None else [gate]:
            for _ in range(20):
                self.answer(each, self.server.say(self.frame(each, report)))
                self.recall()
                report = False
                if not each.news(self.now):
                    break
            else:
                raise AssertionError("it never ends")

    def recall(self) -> None:
        """Everybody hears what is called out."""
        for owner, name, recall in self.server.called():
            for gate in self.gates:
                gate.recalled(owner, name, recall)

    def call(
        self,
        gate: StoreGate | None = None,
        key: str = "shop",
        model: str = "m",
        *,
        tokens: int = 0,
        worst: int = 0,
        cost: int = 0,
    ) -> Call:
        """A call that asks; with `turn` it is answered."""
        call = Call()
        principal = self.principals.by_id[key]
        try:
            call.lease = (gate or self.gates[0]).reserve(
                principal, model, Need(tokens, worst, cost), self.now, self.wall, call
            )
        except RelayError as error:
            call.told.append(error)
        else:
            if call.lease.open:
                call.told.append(None)
        return call

    def reload(self, principals: Principals, groups: Any) -> None:
        self.principals, self.groups = principals, groups
        for gate in self.gates:
            gate.reload(principals, groups)

    def heard(self) -> None:
        """Every relay is in touch."""
        self.turn()


@contextmanager
def running(folder: Path, *options: str) -> Iterator[RedisServer]:
    with RedisServer(folder, *options) as server:
        yield server


def statuses(calls: Sequence[Call]) -> list[bool]:
    return [call.open for call in calls]
