"""Bad requests of our own making, from a seed: broken JSON, broken framing, broken heads.

Each is a whole message in itself or one that can only be closed on; what makes it bad is in its name. The vectors are
written from the RFCs and from what the relay acts on, then multiplied by a seeded mutator.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.rig.raw_client import KEY, chat_body, request

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Bad:
    name: str
    data: bytes
    may_be_served: bool = False
    """A mutation may by chance have left a good request."""
    may_wait: bool = False
    """The relay may rightly wait for more, until we end our side."""


def _raw(line: bytes, headers: bytes = b"", body: bytes = b"") -> bytes:
    auth = b"Host: relay.test\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
    return line + b"\r\n" + auth + headers + b"\r\n" + body


_POST = b"POST /v1/chat/completions HTTP/1.1"
_JSON = b"Content-Type: application/json\r\n"
_BODY = chat_body()
_SIZED = _JSON + b"Content-Length: %d\r\n" % len(_BODY)


def framing() -> Iterator[Bad]:
    """Gadgets of request smuggling and of framing gone wrong."""
    chunked = _JSON + b"Transfer-Encoding: chunked\r\n"
    lengths = [b"-1", b"+5", b"0x10", b"1e3", b"5 5", b"5,5", b"", b"\xb2", b"9" * 40, b"1_0"]
    for value in lengths:
        head = _JSON + b"Content-Length: " + value + b"\r\n"
        yield Bad(f"length {value!r}", _raw(_POST, head, _BODY), may_wait=True)
    yield Bad("two lengths", _raw(_POST, _SIZED + b"Content-Length: 3\r\n", _BODY))
    yield Bad("length and chunked", _raw(_POST, _SIZED + b"Transfer-Encoding: chunked\r\n", _BODY))
    codings = [
        *(b"gzip", b"chunked, gzip", b"xchunked", b"chunked;q=1", b"identity, chunked"),
        *(b"chunked, chunked", b"\x0bchunked", b'"chunked"', b"chunked\x00", b"ch\xfcnked"),
    ]
    for coding in codings:
        head = _JSON + b"Transfer-Encoding: " + coding + b"\r\n"
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY)
        yield Bad(f"coding {coding!r}", _raw(_POST, head, body), may_be_served=True, may_wait=True)
    sizes = [
        *(b"-1", b"+4", b"0x4", b"zz", b"", b" 4", b"4 ", b"4;\nx", b"FFFFFFFFFFFFFFFFF"),
        *(b"4\r4", b"4\x00", b"\xd9\xa4", b"1_0", b"4,4"),
    ]
    for size in sizes:
        body = size + b"\r\nabcd\r\n0\r\n\r\n"
        yield Bad(f"chunk size {size!r}", _raw(_POST, chunked, body), may_wait=True)
    for end in (b"\n", b"\r", b"XX", b""):
        body = b"4\r\nabcd" + end + b"0\r\n\r\n"
        yield Bad(f"chunk end {end!r}", _raw(_POST, chunked, body), may_wait=True)
    yield Bad("chunked on 1.0", _raw(_POST[:-1] + b"0", chunked, b"0\r\n\r\n"), may_be_served=True)


def heads() -> Iterator[Bad]:
    """Heads that no client should send."""
    lines = [
        *(b"", b" ", b"GET", b"GET /", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 x", b"/ HTTP/1.1"),
        *(
            b"GET / HTTP/2.0",
            b"GET / HTTP/0.9",
            b"GET / HTTP/1.9",
            b"GET / HTTP/1",
            b"GET / http/1.1",
        ),
        *(b"GET / HTTP/11.1", b"GET / HTTP/1.1.1", b"GET / HTTP/-1.1", b"GET / ICY/1.1"),
        *(
            b"G\xc3\x89T / HTTP/1.1",
            b"G(T / HTTP/1.1",
            b"\x00GET / HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
        ),
        *(b"GET /\x7f HTTP/1.1", b"GET \\ HTTP/1.1", b"GET http:// HTTP/1.1", b"GET * HTTP/1.1"),
        *(b"CONNECT relay.test:443 HTTP/1.1", b"TRACE / HTTP/1.1", b"PRI * HTTP/2.0"),
        *(b"GET /" + b"a" * 20_000 + b" HTTP/1.1", b"A" * 20_000, b"GET /%zz HTTP/1.1"),
        *(b"GET /v1/models/%00 HTTP/1.1", b"GET /v1/models/../../x HTTP/1.1", b"GET //// HTTP/1.1"),
        *(b"GET http://evil.example/v1/models HTTP/1.1", b"GET /v1/models?%ff HTTP/1.1"),
    ]
    for line in lines:
        served = line.startswith((b"GET /v1/models?", b"GET http://evil"))
        yield Bad(f"line {line[:40]!r}", _raw(line), may_be_served=served, may_wait=True)
    fields = [
        *(b": x", b"No colon", b"Name : x", b" Folded: x", b"X: a\r\n folded", b"X: a\nY: b"),
        *(b"X: \x00", b"X: a\rb", b"X\x00: a", b"X(: a", b"\xc3\xa9: a", b"X: " + b"a" * 20_000),
        *(b"Host: other.test", b"Connection: \x01", b"Content-Length: 5\r\nContent-Length: 6"),
        b"\r\n".join(b"X-%d: 1" % number for number in range(2000)),
        *(b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk",),
        *(b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13",),
        *(b"Expect: 100-continue, x", b"Expect: x", b"Via: 1.1 relay", b"Range: bytes=0-"),
        *(b"x-relay-first-token-ms: 0", b"x-relay-first-token-ms: -1"),
        *(b"x-relay-first-token-ms: nan", b"x-relay-first-token-ms: 1e3"),
        *(b"Accept-Encoding: \xff", b"Origin: \xff\x00", b"X-Forwarded-For: ,,,", b"X: \x80\xff"),
    ]
    for field in fields:
        data = _raw(_POST, _SIZED + field + b"\r\n", _BODY)
        yield Bad(f"field {field[:40]!r}", data, may_be_served=True, may_wait=True)
    authorizations = [
        *(
            b"",
            b"Bearer",
            b"bearer  x",
            b"Bearer \x00",
            b"Bearer \xff",
            b"Basic Og==",
            b"Bearer a b",
        ),
        *(
            b"Bearer " + KEY.encode() + b"x",
            b"Bearer " + KEY.encode()[:-1],
            b"Token " + KEY.encode(),
        ),
    ]
    for value in authorizations:
        head = b"Host: relay.test\r\nAuthorization: " + value + b"\r\n" + _SIZED
        yield Bad(f"authorization {value[:20]!r}", _POST + b"\r\n" + head + b"\r\n" + _BODY)
    yield Bad("no host", _POST + b"\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n", True)
    yield Bad(
        "TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), may_wait=True
    )
    yield Bad("random bytes", random.Random(5).randbytes(500), may_wait=True)


FIELDS = (
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
    *("n", "user", "prompt_cache_key"),
)
VALUES = (
    *("true", "1", '""', '"x"', "[]", "{}", "[1]", '{"a":1}', "1.5", "-1", "0", "1e999", "-0"),
    *("99999999999999999999999", '"\\ud800"', '"\\u0000"', "[null]", "[[]]", "[{}]", "null"),
)


def documents() -> Iterator[Bad]:
    """JSON that is broken, or right and not what a field takes."""
    for field in FIELDS:
        for value in VALUES:
            known = {"model": '"m"', "messages": "[]", "stream": "true"}
            known[field] = value
            members = ",".join(f'"{name}":{text}' for name, text in known.items())
            body = ("{" + members + "}").encode()
            yield Bad(f"{field}={value}", request("POST", CHAT, body), may_be_served=True)
            twice = ("{" + members + f',"{field}":{value}' + "}").encode()
            yield Bad(f"{field}={value} twice", request("POST", CHAT, twice), may_be_served=True)
    for number in (1, 10, 100, 1000, 10_000):
        for left, right in (("[", "]"), ('{"a":', "}")):
            inner = left * number + "1" + right * number
            body = ('{"model":"m","messages":[],"x":' + inner + "}").encode()
            yield Bad(f"{number} deep {left}", request("POST", CHAT, body), may_be_served=True)
            open_body = ('{"model":"m","messages":' + left * number).encode()
            yield Bad(f"{number} deep {left} open", request("POST", CHAT, open_body))


def cuts(rng: random.Random) -> Iterator[Bad]:
    """A good document cut at every byte, and cut requests that never go on."""
    for end in range(1, len(_BODY)):
        yield Bad(f"JSON cut at {end}", request("POST", CHAT, _BODY[:end]))
    whole = request("POST", CHAT, _BODY)
    for end in sorted(rng.sample(range(1, len(whole)), 60)):
        yield Bad(f"request cut at {end}", whole[:end], may_wait=True)


def mutations(rng: random.Random, number: int) -> Iterator[Bad]:
    """Good requests with a few bytes changed, dropped, doubled or swapped."""
    seeds = [
        request("POST", CHAT, _BODY),
        request("POST", CHAT, chat_body(stream=False, n=2, max_tokens=5, user="u")),
        request("POST", CHAT, chat_body(stream_options={"include_usage": True})),
        request("GET", "/v1/models"),
        _raw(
            _POST,
            _JSON + b"Transfer-Encoding: chunked\r\n",
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY),
        ),
    ]
    for turn in range(number):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            match rng.randrange(5):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randint(1, 8)]
                case 2:
                    data[at:at] = rng.choice([b"\r\n", b"\x00", b'"', b"{", b"\\", b"\xff", b":"])
                case 3:
                    data[at:at] = data[at : at + rng.randint(1, 30)]
                case 4:
                    data[at] ^= 1 << rng.randrange(8)
        yield Bad(f"mutation {turn}", bytes(data), may_be_served=True, may_wait=True)


def requests(seed: int, mutated: int = 2000) -> list[Bad]:
    """All of them, in the same order for the same seed."""
    rng = random.Random(seed)
    found = [*framing(), *heads(), *documents(), *cuts(rng), *mutations(rng, mutated)]
    json_types = [f"application/{word}" for word in ("xml", "x-json", "json5", "jsonl")]
    for kind in json_types:
        head = {"Content-Type": kind}
        found.append(Bad(f"type {kind}", request("POST", CHAT, _BODY, headers=head)))
    for coding in ("gzip", "deflate", "br", "zstd", "identity, gzip", "x"):
        head = {"Content-Encoding": coding}
        found.append(Bad(f"coding {coding}", request("POST", CHAT, _BODY, headers=head)))
    for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-7", "cp037"):
        body = json.dumps({"model": "m", "messages": []}).encode(encoding)
        served = encoding == "utf-7"
        found.append(Bad(f"JSON in {encoding}", request("POST", CHAT, body), may_be_served=served))
    return found
