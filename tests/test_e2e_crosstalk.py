"""No byte of one call reaches another, however connections are reused and calls broken off.

Every event carries the tag of its call; the upstream echoes it in events that it cuts at random places.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.rig.deadlines import scenario
from tests.rig.raw_client import KEY, Address, RawClient, chat_body, request
from tests.rig.relay_process import RelayProcess, config

CALLS = 3000
AT_ONCE = 60
EVENTS = 12


class Echo:
    """An upstream that answers each call with events that carry the call's own tag; a few break off."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                if not await self._answer(writer, body["messages"][0]["content"]):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, tag: str) -> bool:
        """False when this answer is to be cut in the middle."""
        dice = self._dice
        events = [_event({"content": f"{tag}.{number}"}, None) for number in range(EVENTS)]
        events += [_event({}, "stop"), b"data: [DONE]\n\n"]
        cut = dice.randrange(1, EVENTS) if dice.random() < 0.1 else None
        payload = b"".join(events[:cut])
        framed = b""
        while payload:
            size = dice.randint(1, 400)
            framed += b"%x\r\n%b\r\n" % (len(payload[:size]), payload[:size])
            payload = payload[size:]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        wire = head + framed + (b"0\r\n\r\n" if cut is None else b"")
        while wire:
            size = dice.randint(1, 700)
            writer.write(wire[:size])
            await writer.drain()
            wire = wire[size:]
        return cut is None


def _event(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: %b\n\n" % json.dumps({**chunk, "choices": [choice]}).encode()


@asynccontextmanager
async def echoing(seed: int) -> AsyncIterator[str]:
    server = await asyncio.start_server(Echo(seed).serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.close()


async def _ask(address: Address, tag: str, dice: random.Random, seen: list[str]) -> None:
    """One call; one in five leaves after a few events."""
    leave = dice.randrange(1, EVENTS) if dice.random() < 0.2 else None
    body = chat_body(messages=[{"role": "user", "content": tag}], stream=True)
    async with await RawClient.connect(address) as client:
        await client.send(request("POST", "/v1/chat/completions", body, key=KEY))
        await client.head()
        count = 0
        while count != leave and (event := await client.event()):
            count += 1
            if b'"content"' in event:
                seen.append(json.loads(event[6:])["choices"][0]["delta"]["content"])


@scenario
async def test_no_byte_of_one_call_reaches_another(tmp_path: Path) -> None:
    dice = random.Random(7)
    wrong: list[str] = []
    total = 0
    async with (
        echoing(1) as one,
        echoing(2) as two,
        RelayProcess(
            config(
                {"a": {"base_url": one}, "b": {"base_url": two}},
                {
                    "m": {
                        "pool": [{"upstream": "a"}, {"upstream": "b"}],
                        "retry": {"budget": "100%"},
                    }
                },
            ),
            tmp_path,
        ) as relay,
    ):
        for start in range(0, CALLS, AT_ONCE):
            tags = [f"tag{start + number:05d}" for number in range(AT_ONCE)]
            seen: dict[str, list[str]] = {tag: [] for tag in tags}
            async with asyncio.TaskGroup() as group:
                for tag in tags:
                    group.create_task(_ask(relay.address, tag, dice, seen[tag]))
            for tag, contents in seen.items():
                total += len(contents)
                expected = [f"{tag}.{number}" for number in range(len(contents))]
                if contents != expected:
                    wrong.append(f"{tag}: {contents}")

        assert not wrong
        assert total > CALLS * EVENTS // 2
