"""The built-in upstream: a canned answer with a model's manners, so that the relay runs with no key at all.

It is reached as any other upstream is, over a socket, and speaks the same wire: what is seen with it is what the relay
does with a real one. It listens on loopback alone, on a port of the system's choice, and its bearer token is new at
each start and known to this process only. It has no state but its connections.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import re
import secrets
from random import Random
from typing import Any, Final

import msgspec
from aiohttp import web

from relay.chatbody import ChatBody, decode
from relay.errors import InvalidKey, MethodNotSupported, RelayError, UnknownUrl

MODEL: Final = "demo"

ANSWER: Final = (
    "Hello! This is the relay speaking, not a model: no provider has a key yet, so I stream a canned answer, piece by"
    " piece, the way a model would. Everything around it is real: your key was checked, your limits were counted, and"
    " this call is in the metrics and in the log. To connect a real provider, set its key where config.yaml asks for"
    " it, such as HOLYSHEEP_API_KEY, and start the relay again; your app keeps its base_url and its code."
)

_PIECES: Final = re.findall(r"\S+ ?(?:\S+ ?)?\S* ?", ANSWER)
"""Three words a delta, as tokens of a fast model come."""

FIRST_TOKEN: Final = 0.15
"""Seconds before the first token: a small model near by."""
GAP: Final = (0.02, 0.04)
"""Seconds between two tokens, from and to."""
AT_ONCE: Final = 0.001
"""Seconds that running streams are left at the end: aiohttp takes 0 for "for ever"."""
BYTES_A_TOKEN: Final = 4
"""Of an English prompt, roughly; a canned answer needs no tokenizer."""

_encode = msgspec.json.Encoder().encode
_Json = dict[str, Any]


class DemoServer:
    """Listens from `start` to `close`."""

    def __init__(
        self, first_token: float = FIRST_TOKEN, gap: tuple[float, float] = GAP, seed: int = 0
    ) -> None:
        self.credential = ""
        """The token that `start` made."""
        self.port = 0
        self._first_token = first_token
        self._gap = gap
        self._pace = Random(seed)  # noqa: S311  pauses, not secrets
        self._expected = b""
        self._numbers = itertools.count(1)
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        self.credential = secrets.token_urlsafe(32)
        self._expected = b"Bearer " + self.credential.encode("ascii")
        # Without cancellation a handler notices that its client left only when it writes again.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=AT_ONCE)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Ends running streams too: they are as broken off as with any upstream that dies."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except RelayError as error:
            return _json(error.body(), error.status)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(sent, self._expected):
            raise InvalidKey
        if request.path == "/v1/models":
            entry = {"id": MODEL, "object": "model", "created": 0, "owned_by": "relay"}
            return _json(_encode({"object": "list", "data": [entry]}))
        if request.path != "/v1/chat/completions":
            raise UnknownUrl
        if request.method != "POST":
            raise MethodNotSupported("POST")
        # Not `request.read`, which stops at 1 MiB: the relay has its own limit.
        body = await request.content.read()
        chat = decode(body)
        answer = _Answer(chat, len(body), next(self._numbers))
        if chat.stream:
            return await self._stream(request, answer)
        await asyncio.sleep(self._first_token)
        return _json(_encode(answer.whole()))

    async def _stream(self, request: web.BaseRequest, answer: _Answer) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        pause = self._first_token
        for event in answer.events():
            await response.write(event)
            await asyncio.sleep(pause)
            pause = self._pace.uniform(*self._gap)
        await response.write(answer.end())
        await response.write_eof()
        return response


class _Answer:
    """The answer to one call, in the shapes that clients know."""

    def __init__(self, chat: ChatBody, size: int, number: int) -> None:
        self._chat = chat
        self._pieces = _PIECES[: chat.max_tokens]
        self._finish = "stop" if len(self._pieces) == len(_PIECES) else "length"
        self._id = f"chatcmpl-demo-{number}"
        prompt, given = -(-size // BYTES_A_TOKEN), len(self._pieces) * chat.n
        self._usage = {
            "prompt_tokens": prompt,
            "completion_tokens": given,
            "total_tokens": prompt + given,
        }

    def whole(self) -> _Json:
        message = {"role": "assistant", "content": "".join(self._pieces)}
        choices = [
            {"index": index, "message": message, "finish_reason": self._finish}
            for index in range(self._chat.n)
        ]
        return self._object("chat.completion", choices) | {"usage": self._usage}

    def events(self) -> list[bytes]:
        """What comes in its time: the role at once, then the words."""
        deltas: list[_Json] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in self._pieces]
        return [self._event(self._choices(delta, None)) for delta in deltas]

    def end(self) -> bytes:
        """What comes in one go."""
        events = [self._event(self._choices({}, self._finish))]
        if self._chat.include_usage:
            events.append(self._event([], usage=self._usage))
        return b"".join((*events, b"data: [DONE]\n\n"))

    def _choices(self, delta: _Json, finish: str | None) -> list[_Json]:
        return [
            {"index": index, "delta": delta, "finish_reason": finish}
            for index in range(self._chat.n)
        ]

    def _event(self, choices: list[_Json], **members: _Json) -> bytes:
        chunk = self._object("chat.completion.chunk", choices) | members
        return b"data: " + _encode(chunk) + b"\n\n"

    def _object(self, kind: str, choices: list[_Json]) -> _Json:
        # No clock here: `created` is a member that clients expect and nobody needs of a demo.
        return {
            "id": self._id,
            "object": kind,
            "created": 0,
            "model": self._chat.model,
            "choices": choices,
        }


def new_demo_key() -> str:
    """A key for clients, good for one run."""
    return "sk-demo-" + secrets.token_urlsafe(24)


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")
