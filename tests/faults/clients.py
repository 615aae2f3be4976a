"""Rows of what clients do wrong: bytes that are no request, requests that do not end, uploads that are given up.

All of it goes to one relay; after each row an ordinary call must be served, and at the end nothing may be left: no
place, no token, no connection at the upstream. Who leaves in the middle of an answer is measured in `leaving.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.stage import DAY
from tests.rig import scripts as say
from tests.rig.raw_client import KEY, Answer, RawClient, chat_body, request
from tests.rig.relay_process import Line, RelayProcess, config
from tests.rig.upstream import Upstream

CHAT = "/v1/chat/completions"
BODY = chat_body(stream=False)
POST = b"POST /v1/chat/completions HTTP/1.1"
AUTH = b"Host: relay.test\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
TYPE = b"Content-Type: application/json\r\n"
SIZE = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = say.frame(BODY) + say.LAST_CHUNK
LIMIT = 1 << 20
"""`max_body` of the relay under test."""
SLOW = "300ms"
"""Its patience with heads and bodies."""
POOR = "sk-poor-0123456789abcdef"
"""A key whose budget is spent by any call."""


def raw(line: bytes, headers: bytes = b"", body: bytes = b"", auth: bytes = AUTH) -> bytes:
    return line + b"\r\n" + auth + headers + b"\r\n" + body


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRow:
    name: str
    group: str
    """The line of the fault matrix."""
    data: bytes
    answers: tuple[tuple[int, str | None], ...]
    """Status and code of each answer; none: the connection ends without a word."""
    closes: bool = False
    """The relay closes the connection after the last answer."""
    leaves: str = ""
    """How the client ends the connection after it has sent: `close`, `reset` or `half_close`."""
    calls: int = 0
    """Requests that the upstream gets of it."""
    logged: bool = True
    """There is a line in the access log for each answer."""
    retry: str | None = None
    """`x-should-retry` of the last answer."""


def bad_json() -> list[ClientRow]:
    head = b'{"model":"m","messages":[{"role":"user","content":"x"}]'
    bodies = {
        "empty": b"",
        "cut": BODY[:-9],
        "200,000 deep": b"[" * 200_000,
        "an object 50,000 deep": head + b',"x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        "NaN": head + b',"temperature":NaN}',
        "an infinite number": head + b',"temperature":-Infinity}',
        "max_tokens of 400 digits": head + b',"max_tokens":' + b"9" * 400 + b"}",
        "bad UTF-8": head + b',"x":"\xff\xfe"}',
        "UTF-16": (head + b"}").decode().encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + head + b"}",
        "two documents": head + b"}{}",
        "an array": b"[]",
    }
    rows = [
        ClientRow(
            name=f"JSON: {name}",
            group="bad JSON",
            data=request("POST", CHAT, body),
            answers=((400, None),),
        )
        for name, body in bodies.items()
    ]
    twice = {
        "model": b',"model":"m2"}',
        "stream": b',"stream":true,"stream":false}',
        "max_tokens": b',"max_tokens":1,"max_tokens":99999}',
        "max_tokens, escaped": b',"max_tokens":1,"max_\\u0074okens":99999}',
        "n": b',"n":1,"n":128}',
    }
    return rows + [
        ClientRow(
            name=f"{name} twice",
            group="duplicate keys",
            data=request("POST", CHAT, head + tail),
            answers=((400, None),),
        )
        for name, tail in twice.items()
    ]


def framing() -> list[ClientRow]:
    line = "framing"
    one = ((400, "bad_request"),)
    plays = {
        "length and chunked": raw(POST, TYPE + SIZE + CHUNKED, CHUNKS),
        "two lengths": raw(POST, TYPE + SIZE + b"Content-Length: 3\r\n", BODY),
        "a length of -1": raw(POST, TYPE + b"Content-Length: -1\r\n", BODY),
        "a length of 1_0": raw(POST, TYPE + b"Content-Length: 1_0\r\n", BODY),
        "a folded line": raw(POST, TYPE + SIZE + b"X: a\r\n folded\r\n", BODY),
        "bare LF": raw(POST, TYPE + SIZE, BODY).replace(b"\r\n", b"\n"),
        "a NUL in a header": raw(POST, TYPE + SIZE + b"X: a\x00b\r\n", BODY),
        "a blank before the colon": raw(POST, TYPE + SIZE + b"X : a\r\n", BODY),
        "a chunk of -1": raw(POST, TYPE + CHUNKED, b"-1\r\nabcd\r\n0\r\n\r\n"),
        "a chunk of 0x4": raw(POST, TYPE + CHUNKED, b"0x4\r\nabcd\r\n0\r\n\r\n"),
        "a chunk longer than its size": raw(POST, TYPE + CHUNKED, b"2\r\nabcd\r\n0\r\n\r\n"),
        "coding gzip, chunked": raw(POST, TYPE + b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
        "coding xchunked": raw(POST, TYPE + b"Transfer-Encoding: xchunked\r\n", CHUNKS),
        "chunked on 1.0": raw(POST[:-1] + b"0", TYPE + CHUNKED, CHUNKS),
        "a method that is none": raw(b"P(ST /v1/chat/completions HTTP/1.1", TYPE + SIZE, BODY),
        "2,000 header lines": raw(POST, TYPE + SIZE + b"X: 1\r\n" * 2000, BODY),
        "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    }
    rows = [
        ClientRow(name=name, group=line, data=data, answers=one, closes=True, logged=False)
        for name, data in plays.items()
    ]
    for name, version in (("version 2.0", b"2.0"), ("version 0.9", b"0.9")):
        data = raw(b"POST /v1/chat/completions HTTP/" + version, TYPE + SIZE, BODY)
        rows.append(
            ClientRow(
                name=name,
                group=line,
                data=data,
                answers=((505, None),),
                closes=True,
                logged=False,
                retry="false",
            )
        )
    return rows


def sizes() -> list[ClientRow]:
    large = ((413, "request_too_large"),)
    expects = {"Expect": "100-continue", "Content-Type": "application/json"}
    declared = {"Content-Length": str(1 << 40), "Content-Type": "application/json"}
    flood = say.frame(b"x" * 65536) * (2 * LIMIT // 65536)
    odd = request("POST", CHAT, BODY, headers={"Expect": "200-ok"})
    own = {"Content-Length": str(len(BODY))}
    return [
        ClientRow(
            name="a length over the limit",
            group="body > limit",
            data=request("POST", CHAT, headers=declared),
            answers=large,
            closes=True,
        ),
        ClientRow(
            name="chunks over the limit",
            group="body > limit",
            data=raw(POST, TYPE + CHUNKED, flood),
            answers=large,
            closes=True,
        ),
        ClientRow(
            name="100-continue over the limit",
            group="Expect",
            data=request("POST", CHAT, headers=expects | declared),
            answers=large,
            closes=True,
        ),
        ClientRow(
            name="100-continue with a wrong key",
            group="Expect",
            data=request("POST", CHAT, headers=expects | own, key="sk-nobody-0123456789"),
            answers=((401, "invalid_api_key"),),
            closes=True,
        ),
        ClientRow(name="Expect: 200-ok", group="Expect", data=odd, answers=((417, None),)),
    ]


def unfinished() -> list[ClientRow]:
    """Requests that do not come whole."""
    whole = request("POST", CHAT, BODY)
    late = ((408, "request_timeout"),)
    rows = [
        ClientRow(
            name=f"{name} that does not end",
            group="slowloris",
            data=data,
            answers=late,
            closes=True,
            retry="false",
        )
        for name, data in (
            ("a request line", whole[:9]),
            ("a head", whole[:60]),
            ("a body", whole[:-5]),
            ("a chunked body", raw(POST, TYPE + CHUNKED, say.frame(BODY))),
        )
    ]
    for leaves in ("close", "reset", "half_close"):
        rows.append(
            ClientRow(
                name=f"an upload ended by {leaves.replace('_', '-')}",
                group="aborted upload",
                data=whole[:-5],
                answers=(),
                leaves=leaves,
            )
        )
    return rows


def protocols() -> list[ClientRow]:
    upgrade = {
        "websocket": b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
        "h2c": b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\n",
    }
    rows = [
        ClientRow(
            name=f"Upgrade: {name}",
            group="Upgrade / CONNECT / h2c preface",
            data=raw(POST, TYPE + SIZE + headers, BODY),
            answers=((200, None),),
            calls=1,
        )
        for name, headers in upgrade.items()
    ]
    return [
        *rows,
        ClientRow(
            name="CONNECT",
            group="Upgrade / CONNECT / h2c preface",
            data=raw(b"CONNECT upstream.test:443 HTTP/1.1"),
            answers=((404, None),),
        ),
        ClientRow(
            name="a preface of HTTP/2",
            group="Upgrade / CONNECT / h2c preface",
            data=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            answers=((400, "bad_request"),),
            closes=True,
            logged=False,
        ),
    ]


def polite() -> list[ClientRow]:
    """Requests that are right, but should not be served, or not at once."""
    ok = (200, None)
    whole = request("POST", CHAT, BODY)
    nobody = request("POST", CHAT, BODY, key="sk-nobody-0123456789")
    return [
        ClientRow(
            name="three requests in one write",
            group="pipelining",
            data=whole * 3,
            answers=(ok, ok, ok),
            calls=3,
        ),
        ClientRow(
            name="the second one with a wrong key",
            group="pipelining",
            data=whole + nobody + whole,
            answers=(ok, (401, "invalid_api_key")),
            closes=True,
            calls=1,
        ),
        ClientRow(
            name="a budget that is spent",
            group="retry storm by SDK",
            data=request("POST", CHAT, BODY, key=POOR),
            answers=((429, "insufficient_quota"),),
            retry="false",
        ),
        ClientRow(
            name="a wrong key",
            group="retry storm by SDK",
            data=nobody,
            answers=((401, "invalid_api_key"),),
        ),
    ]


def rows() -> list[ClientRow]:
    return [*bad_json(), *framing(), *sizes(), *unfinished(), *protocols(), *polite()]


# --- playing them ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """What came of one row."""

    row: ClientRow
    answers: list[Answer] = field(default_factory=list)
    rest: bytes = b""
    """What came after the last answer until the close; only where the relay must close."""
    calls: int = 0
    seconds: float = 0.0
    lines: list[Line] = field(default_factory=list)
    after: int = 0
    """The status of an ordinary call afterwards."""


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[RelayProcess, Upstream]]:
    keys = [
        {"id": "tester", "key": KEY, "limits": {"tokens_per_day": DAY}},
        {"id": "poor", "key": POOR, "limits": {"tokens_per_day": 1}},
    ]
    server = {"max_body": LIMIT, "timeouts": {"header": SLOW, "body": SLOW, "write_stall": SLOW}}
    async with Upstream() as upstream:
        fields = config({"a": upstream}, None, keys, server=server)
        async with RelayProcess(fields, directory) as relay:
            yield relay, upstream


async def ask(relay: RelayProcess, upstream: Upstream, row: ClientRow) -> Seen:
    """Sends the row's bytes and reads what comes."""
    seen = Seen(row)
    before = len(upstream.exchanges)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with await RawClient.connect(relay.address) as client:
        with contextlib.suppress(ConnectionError):
            await client.send(row.data)
        if row.leaves == "half_close":
            client.half_close()
            seen.rest = await client.closed()
        elif row.leaves:
            await getattr(client, row.leaves)()
        for _ in row.answers:
            await client.head()
            seen.answers.append(await client.rest())
        if row.closes:
            seen.rest = await client.closed()
    seen.seconds = loop.time() - began
    if row.logged:
        seen.lines = [await relay.call_of(answer) for answer in seen.answers]
    seen.calls = len(upstream.exchanges) - before
    seen.after = (await relay.chat(stream=False)).status
    return seen


def complaints(seen: Seen) -> list[str]:
    """All that is wrong with it; empty when it went as its row says."""
    row, found = seen.row, []

    def compare(what: str, got: object, wanted: object) -> None:
        if got != wanted:
            found.append(f"{what}: {got!r} instead of {wanted!r}")

    for answer, (status, code) in zip(seen.answers, row.answers, strict=True):
        compare("status", answer.status, status)
        compare("framing", answer.end.name, "CLEAN")
        compare("interim answers", answer.interim, [])
        if not answer.headers.get("x-request-id"):
            found.append("no x-request-id")
        if answer.status != 200:
            compare("code", answer.error["code"], code)
        if KEY.encode() in answer.body:
            found.append("the client's key stands in the answer")
    if seen.answers:
        compare("x-should-retry", seen.answers[-1].headers.get("x-should-retry"), row.retry)
    compare("bytes after the last answer", seen.rest, b"")
    compare("requests at the upstream", seen.calls, row.calls)
    compare("an ordinary call afterwards", seen.after, 200)
    for line, (status, _) in zip(seen.lines, row.answers, strict=False):
        compare("logged code", line["code"], status)
        wanted = {200: "ok", 429: "rate_limited"}.get(status, "client_error")
        compare("logged outcome", line["outcome"], wanted)
        compare("billed", line.get("input_tokens", 0), 9 if status == 200 else 0)
    if seen.seconds > LONGEST:
        found.append(f"{seen.seconds:.1f} s")
    return found


LONGEST = 5.0
"""Seconds any row may take."""


def billed(seen: Sequence[Seen]) -> int:
    """Tokens of the calls that were served, with the ordinary one after each row."""
    return sum((each.row.calls + 1) * say.USAGE["total_tokens"] for each in seen)
