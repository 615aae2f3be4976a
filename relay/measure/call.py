"""One streamed call to an upstream, measured: what came when, and how it ended.

What counts as what is as in the relay itself: a first token is the first event with content, reasoning or a tool call;
a stream is whole when `[DONE]` came, or the last word of its choice; a result is a label of
`relay_upstream_attempts_total`. Rules that hold here:
- every call dials anew, so that each measures the dial, and none pays for a connection that went stale;
- the clock of the first token starts when the connection stands: the relay's stand already;
- nothing an upstream sends raises, and its words are kept scrubbed and without control characters.
"""

from __future__ import annotations

import asyncio
import re
from array import array
from dataclasses import dataclass, field
from time import time
from typing import Any, Final

import aiohttp
import msgspec

from relay import __version__
from relay.measure.targets import Target
from relay.routes import FIRST_RATIO
from relay.sse import Event, EventSplitter, EventTooLong, Kind, classify
from relay.upstream import answers, errorbody, tls
from relay.upstream.reporting import ASKS, FINAL, NOTHING, RUNNING
from relay.upstream.scrub import Scrubber
from relay.usage import Usage

OK: Final = "ok"
EMPTY: Final = "empty"
"""Whole, but without a token."""
SILENT: Final = "first_token_timeout"

LONGEST_SAID: Final = 200
"""Characters of an upstream's own words."""
LARGEST_REFUSAL: Final = 65536
"""Bytes of an answer that is no stream."""

_REASONED = re.compile(rb'"reasoning(?:_content)?": ?"[^"]')
_SAYS = re.compile(rb'"(?:content|reasoning(?:_content)?|refusal)": ?"[^"]|"tool_calls": ?\[ ?\{')
"""In the last event of a choice, which may be its only one."""
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Sample:
    """One call. Times in seconds; None is what did not come to pass."""

    number: int
    at: float
    """Its start, Unix time."""
    result: str = ""
    status: int | None = None
    said: str = ""
    """The upstream's own reason, scrubbed."""
    connect: float | None = None
    """DNS, TCP and TLS."""
    ttft: float | None = None
    """From the connection to the first token; of a silence that was given up, how long it lasted."""
    duration: float = 0.0
    events: int = 0
    """With content, reasoning or a tool call."""
    wrote: float = 0.0
    """From the first of them to the last."""
    gaps: array[float] = field(default_factory=lambda: array("d"))
    usage: Usage | None = None
    visible: int = 0
    """Output tokens that came as events: all but a reasoning that is counted and not shown."""

    @property
    def whole(self) -> bool:
        return self.result == OK

    @property
    def silent(self) -> bool:
        """It was given up before its first token: `ttft` is less than it would have been."""
        return self.result == SILENT

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first event; None when all came in one piece."""
        if self.events < 2 or self.wrote <= 0 or not self.visible:
            return None
        # The first event's tokens were there when the clock started.
        return self.visible * (self.events - 1) / self.events / self.wrote

    def time_for(self, tokens: int) -> float | None:
        """Seconds for an answer of so many tokens, if it went on as it did."""
        rate = self.rate
        return None if rate is None or self.ttft is None else self.ttft + (tokens - 1) / rate


class Asking:
    """What a target is asked for, and has refused: a field that it does not know is left out from then on."""

    def __init__(self, target: Target, most_tokens: int) -> None:
        self._target = target
        self._most = most_tokens
        self._cap = "max_tokens"
        self._asks = ASKS[target.usage]

    def body(self, prompt: str) -> bytes:
        fields: dict[str, Any] = {
            "model": self._target.model,
            "messages": [{"role": "user", "content": prompt}],
            self._cap: self._most,
            "stream": True,
        }
        if self._asks != NOTHING:
            fields["stream_options"] = {"include_usage": True}
        if self._asks == RUNNING:
            fields["stream_options"]["continuous_usage_stats"] = True
        return _encode(fields)

    def learns(self, status: int | None, said: str) -> bool:
        """Whether another body may be taken, and is the next one."""
        if status not in (400, 422):
            return False
        if "max_completion_tokens" in said and self._cap == "max_tokens":
            self._cap = "max_completion_tokens"
            return True
        if self._asks != NOTHING and ("stream_options" in said or "_usage" in said):
            self._asks = FINAL if self._asks == RUNNING else NOTHING
            return True
        return False


class Caller:
    """Calls one target. Lives as long as the run; `total` replaces the target's own (seconds)."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        target: Target,
        most_tokens: int,
        scrub: Scrubber,
        total: float | None,
    ) -> None:
        self.target = target
        self._session = session
        self._asking = Asking(target, most_tokens)
        self._scrub = scrub
        self._total = total or target.total

    async def call(self, number: int, prompt: str) -> Sample:
        while True:
            sample = Sample(number, time())
            body = self._asking.body(prompt)
            said = await _Call(sample, self._total, self._scrub).run(
                self._session, self.target, self.target.keys[number % len(self.target.keys)], body
            )
            if not self._asking.learns(sample.status, said):
                return sample


class _Call:
    """One attempt. Dies with it."""

    def __init__(self, sample: Sample, total: float, scrub: Scrubber) -> None:
        self._sample = sample
        self._loop = asyncio.get_running_loop()
        self._scrub = scrub
        self._began = self._loop.time()
        self._end = self._began + total
        self._sent = 0.0
        self._last = 0.0
        self._phase = "connect_timeout"
        self._patience = asyncio.timeout(None)
        self._silence = 0.0
        self._idle = 0.0
        self._reasoned = False
        self._finished = False
        self._broken = ""

    async def run(
        self, session: aiohttp.ClientSession, target: Target, key: str | None, body: bytes
    ) -> str:
        """Fills the sample; returns the upstream's refusal as it came, for `Asking` alone."""
        sample = self._sample
        self._silence, self._idle = target.first_token, target.idle
        said = ""
        try:
            async with self._patience:
                self._wait(target.connect, "connect_timeout")
                said = await self._ask(session, target, key, body)
        except TimeoutError:
            sample.result = self._phase if self._loop.time() < self._end else "total_timeout"
            if not sample.events and self._phase == SILENT:
                sample.result, sample.ttft = SILENT, self._loop.time() - self._sent
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Its text may tell the request, and the credential with it.
            sample.result = OK if self._finished else self._fault(error)
        sample.duration = self._loop.time() - self._began
        self._count(body)
        return said

    def connected(self) -> None:
        """Told by the session, as soon as the connection stands."""
        self._sent = self._loop.time()
        self._sample.connect = self._sent - self._began
        self._wait(self._silence, SILENT)

    def _wait(self, seconds: float, phase: str) -> None:
        self._phase = phase
        self._patience.reschedule(min(self._loop.time() + seconds, self._end))

    async def _ask(
        self, session: aiohttp.ClientSession, target: Target, key: str | None, body: bytes
    ) -> str:
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        trust = tls.context(target.ca_file) if target.base_url.startswith("https") else True
        asked = session.post(
            f"{target.base_url.rstrip('/')}/chat/completions",
            data=body,
            headers=headers,
            ssl=trust,
            allow_redirects=False,
            trace_request_ctx=self,
        )
        async with asked as response:
            self._sample.status = response.status
            if response.status != 200 or response.content_type != "text/event-stream":
                return await self._refused(response)
            await self._read(response)
        return ""

    async def _refused(self, response: aiohttp.ClientResponse) -> str:
        """What came instead of a stream."""
        body = b""
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > LARGEST_REFUSAL:
                break
        sample = self._sample
        if response.status == 200:
            sample.result = "bad_content_type"
            error = errorbody.read(body)
            if error.message:
                sample.result = "error_in_200"
        else:
            failure = answers.from_status(response.status, {}, body, self._scrub, sample.at)
            sample.result = failure.result
            error = errorbody.read(body)
        self._quote(error.message)
        return f"{error.param} {error.message}"

    def _quote(self, message: str) -> None:
        said = self._scrub(message, LONGEST_SAID)
        self._sample.said = "".join(one if one.isprintable() else " " for one in said)

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        splitter = EventSplitter()
        sample = self._sample
        async for data in response.content.iter_any():
            now = self._loop.time()
            try:
                events = splitter.feed(data)
            except EventTooLong:
                sample.result = "line_too_long"
                return
            for raw in events:
                if self._take(classify(raw), now):
                    return
        sample.result = OK if self._finished else "upstream_truncated"

    def _take(self, event: Event, now: float) -> bool:
        """Whether the stream is over."""
        sample = self._sample
        if event.usage is not None:
            sample.usage = event.usage
        if event.kind == Kind.ERROR:
            sample.result = "error_event"
            self._quote(errorbody.describe(event.error).message)
            return True
        if event.kind in (Kind.DONE, Kind.USAGE):
            # A count comes last: a stream that got there is whole.
            self._finished = True
        if event.kind == Kind.DONE:
            sample.result = OK
            return True
        if event.kind == Kind.CONTENT:
            self._token(event, now)
        elif event.kind == Kind.FINAL:
            self._finished = True
            if not sample.events and event.data is not None and _SAYS.search(event.data):
                self._token(event, now)
        elif event.kind != Kind.COMMENT and sample.events:
            self._wait(self._idle, "idle_timeout")
        return False

    def _token(self, event: Event, now: float) -> None:
        sample = self._sample
        if not sample.events:
            sample.ttft = now - self._sent
        else:
            sample.gaps.append(now - self._last)
            sample.wrote += now - self._last
        self._last = now
        sample.events += 1
        if not self._reasoned and event.data is not None:
            self._reasoned = _REASONED.search(event.data) is not None
        self._wait(self._idle, "idle_timeout")

    def _fault(self, error: Exception) -> str:
        """The label of what broke."""
        if not self._sent:
            if isinstance(error, aiohttp.ClientConnectorDNSError):
                return "dns_error"
            if isinstance(error, aiohttp.ClientSSLError):
                return "tls_error"
            return "connect_refused"
        if isinstance(error, aiohttp.ClientPayloadError):
            # Whether by a reset or a close: aiohttp does not tell.
            return "upstream_truncated"
        if isinstance(error, aiohttp.ClientResponseError | ValueError):
            return "bad_framing"
        if self._sample.status is None:
            return "reset_before_headers"
        return "upstream_reset" if self._sample.events else "reset_before_first_event"

    def _count(self, body: bytes) -> None:
        """The tokens, reported or, where nobody has, as the relay estimates them."""
        sample = self._sample
        if sample.usage is None and sample.events:
            sample.usage = Usage(round(len(body) * FIRST_RATIO), sample.events, source="estimated")
        used = sample.usage
        if used is not None:
            sample.visible = used.output if self._reasoned else used.output - used.reasoning
        if sample.whole and (used is None or not used.output):
            sample.result = EMPTY


def tracer() -> aiohttp.TraceConfig:
    """Tells a call when its connection stands."""
    trace = aiohttp.TraceConfig()

    async def stands(
        session: aiohttp.ClientSession, context: Any, _: aiohttp.TraceConnectionCreateEndParams
    ) -> None:
        context.trace_request_ctx.connected()

    trace.on_connection_create_end.append(stands)
    return trace


def open_session() -> aiohttp.ClientSession:
    """Without redirects, proxies of the environment, netrc, cookies or deadlines of its own."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"user-agent": f"relay/{__version__}"},
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
        trace_configs=[tracer()],
    )
