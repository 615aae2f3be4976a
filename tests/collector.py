"""A collector of traces: OTLP over HTTP on a real socket, read with the protocol's own messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.rig import within
from tests.rig.deadlines import WAIT


class Span:
    """One span as it came."""

    def __init__(self, sent: Any, resource: dict[str, Any]) -> None:
        self.name: str = sent.name
        self.trace_id: str = sent.trace_id.hex()
        self.id: str = sent.span_id.hex()
        self.parent: str = sent.parent_span_id.hex()
        self.kind: int = sent.kind
        self.start: int = sent.start_time_unix_nano
        self.end: int = sent.end_time_unix_nano
        self.failed: bool = sent.status.code == 2
        self.attributes = _values(sent.attributes)
        self.resource = resource


class Collector:
    """Listens on loopback; `statuses` are its answers, the last one for all that follow."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = list(statuses) or [200]
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()
        self.spans: list[Span] = []
        self.paths: list[str] = []
        self.requests: list[bytes] = []
        """Heads and bodies."""

    @property
    def env(self) -> dict[str, str]:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def until(self, fits: Callable[[list[Span]], bool]) -> list[Span]:
        """All spans, as soon as they fit."""
        async with within(WAIT), self._changed:
            await self._changed.wait_for(lambda: fits(self.spans))
        return self.spans

    async def trace(self, trace_id: str, spans: int) -> list[Span]:
        """The spans of one trace once there are so many, the call's own first."""

        def of_it(all_spans: list[Span]) -> list[Span]:
            return [span for span in all_spans if span.trace_id == trace_id]

        return of_it(await self.until(lambda found: len(of_it(found)) >= spans))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("ascii").lower().split("\r\n")
                length = next(int(v[16:]) for v in lines if v.startswith("content-length: "))
                body = await reader.readexactly(length)
                await self._take(head, body)
                status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _take(self, head: bytes, body: bytes) -> None:
        sent = ExportTraceServiceRequest.FromString(body)
        self.requests.append(head + body)
        self.paths.append(head.split()[1].decode())
        for group in sent.resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [Span(span, resource) for span in scope.spans]
        async with self._changed:
            self._changed.notify_all()


def _values(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
