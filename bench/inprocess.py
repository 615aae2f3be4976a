"""What a call costs in the relay itself: no socket, no kernel, no loop; client and upstream are lists of bytes.

The figures are the floor under every other: what is measured over sockets adds the kernel's work and cold caches. They
serve for comparing two versions of the code. Under valgrind they are exact to the instruction, function by function:

    make compile
    PYTHONPATH=.cache/compiled valgrind --tool=callgrind --collect-atstart=no \\
        --toggle-collect='CPyPy_*data_received' .venv/bin/python -P bench/inprocess.py --once plain --calls 1200
    callgrind_annotate --inclusive=yes callgrind.out.* | grep CPyDef_
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
from collections.abc import Callable
from statistics import median
from time import monotonic, process_time
from typing import Any, cast

import uvloop

from relay import chunked
from relay.admission.gate import Gate
from relay.call import RequestIds
from relay.config import file
from relay.connection import ClientConnection
from relay.equipment import Memory
from relay.observe import contentlog
from relay.observe.accesslog import AccessLog
from relay.observe.linewriter import LineWriter
from relay.observe.metrics import Metrics
from relay.observe.slowcalls import SlowCalls
from relay.port import Patience, Port
from relay.process import settle_memory
from relay.proxy import Proxy
from relay.reception import Reception
from relay.records import Batch
from relay.snapshot import Snapshot
from relay.timers import Wheel
from relay.upstream.attempt import Tools
from relay.upstream.connections import connections_of
from relay.upstream.dial import Dialer
from relay.upstream.directory import Directory
from relay.upstream.wire import Connection

CONFIG: dict[str, Any] = {
    "upstreams": {
        name: {"base_url": "http://127.0.0.1:9/v1", "api_keys": [f"sk-upstream-{name}"]}
        for name in ("one", "two")
    },
    "models": {
        "chat": {
            "pool": [{"upstream": "one"}, {"upstream": "two"}],
            "price": {"input": 0.27, "output": 0.42},
        }
    },
    "keys": [
        {
            "id": "bench",
            "key": "sk-bench-0123456789abcdef",
            "limits": {"rpm": 100_000_000, "tpm": 1_000_000_000, "concurrent": 100_000},
        }
    ],
}
"""Everything on, as in the other cases: limits, a price, two members."""

_MESSAGE = {"role": "user", "content": "Hello, how are you today? Please answer briefly."}
_CHUNK: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1763000000,
    "model": "chat",
}
_USAGE = {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
_END = b"data: [DONE]\n\n"


class Wire:
    """A transport that keeps the last thing written to it."""

    def __init__(self) -> None:
        self.last = b""

    def write(self, data: bytes) -> None:
        self.last = data

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def abort(self) -> None: ...


def _request(stream: bool) -> bytes:
    asked = {"model": "chat", "messages": [_MESSAGE], "temperature": 0.7, "stream": stream}
    body = json.dumps(asked).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer sk-bench-0123456789abcdef\r\ncontent-length: %d\r\n\r\n"
    )
    return head % len(body) + body


def _answer() -> bytes:
    message = {"role": "assistant", "content": "I am fine, thank you."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {**_CHUNK, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    body = json.dumps(whole).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def _event(delta: object, finish: str | None = None, **more: object) -> bytes:
    choices = [] if more else [{"index": 0, "delta": delta, "finish_reason": finish}]
    data = json.dumps({**_CHUNK, "choices": choices, **more}, separators=(",", ":")).encode()
    return chunked.frame(b"data: " + data + b"\n\n")


class Bench:
    """A relay without sockets, and one client of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        config = file.loads(json.dumps(CONFIG).encode(), {})
        memory = Memory(loop, Directory(), _raise)
        snapshot = Snapshot(config, memory)
        metrics = Metrics()
        metrics.configure(["chat"], ["one", "two"], snapshot.principals, 0.8)
        log = AccessLog(LineWriter(os.open(os.devnull, os.O_WRONLY)))
        slow = SlowCalls(0.8)
        observers = [metrics.observe, log.observe, slow.observe, contentlog.observe]
        self.batch = Batch(loop, observers)
        self.dialer = Dialer(loop)
        self.wheel = wheel = Wheel(loop)
        gate = Gate(snapshot.principals, config.groups)
        proxy = Proxy(gate, Tools(self.dialer, wheel), self.batch.add, _raise)
        reception = Reception(proxy, snapshot, _no_health, _no_health)
        port = Port(reception, wheel, RequestIds("bench"), Patience(10, 30, 75))
        self.client, self.written = ClientConnection(port), Wire()
        self.client.connection_made(cast(asyncio.Transport, self.written))
        self.upstreams: list[Connection] = []
        for endpoint in (found for each in snapshot.endpoints.values() for found in each):
            kept = connections_of(endpoint)
            connection = Connection(kept, monotonic())
            connection.connection_made(cast(asyncio.Transport, Wire()))
            kept.made(connection)
            kept.put(connection)
            self.upstreams.append(connection)
        self._plain, self._whole = _request(False), _answer()
        self._stream = _request(True)
        self._begins = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            + _event({"role": "assistant", "content": ""})
            + _event({"content": "I"})
        )
        self._ends = _event({}, "stop") + _event(None, usage=_USAGE) + chunked.frame(_END)
        self._ends += chunked.LAST_CHUNK
        self.token = _event({"content": " am"})

    def _asked(self, request: bytes) -> Callable[[bytes], None]:
        self.client.data_received(request)
        return next(each for each in self.upstreams if not each.idle).data_received

    def plain(self, calls: int) -> None:
        for _ in range(calls):
            self._asked(self._plain)(self._whole)

    def streamed(self, calls: int) -> None:
        """Each with what every stream has: a role, one token, an end."""
        for _ in range(calls):
            say = self._asked(self._stream)
            say(self._begins)
            say(self._ends)

    def events(self, count: int) -> None:
        """Of one stream, its beginning and end among them."""
        say = self._asked(self._stream)
        say(self._begins)
        for _ in range(count):
            say(self.token)
        say(self._ends)


def _raise(error: BaseException) -> None:
    raise error


def _no_health() -> tuple[int, bytes]:
    return 200, b"{}"


async def _measure(once: str | None, calls: int) -> None:
    bench = Bench(asyncio.get_running_loop())
    cases = {"plain": bench.plain, "streamed": bench.streamed, "events": bench.events}
    if once is not None:
        cases[once](calls)
        bench.batch.flush()
    else:
        bench.plain(200)
        assert bench.written.last.startswith(b"HTTP/1.1 200 "), "the call went through"
        bench.streamed(200)
        assert bench.written.last.endswith(chunked.LAST_CHUNK), "the stream is whole"
        settle_memory()
        kind = "interpreted" if chunked.__file__.endswith(".py") else "compiled"
        print(f"{kind}, Python {sys.version.split()[0]}: CPU µs, the least and the median of 15")
        for name, case in cases.items():
            spent = [_timed(case, calls * 20 if name == "events" else calls) for _ in range(15)]
            print(f"{name:9} {min(spent):6.2f} {median(spent):6.2f}")
            bench.batch.flush()
    gc.unfreeze()
    bench.wheel.close()
    await bench.dialer.close()


def _timed(case: Callable[[int], None], count: int) -> float:
    before = process_time()
    case(count)
    return (process_time() - before) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=2000, help="in each of 15 rounds (2000)")
    parser.add_argument("--once", choices=("plain", "streamed", "events"), help="that case alone")
    asked = parser.parse_args()
    uvloop.run(_measure(asked.once, asked.calls))


if __name__ == "__main__":
    main()
