"""A client that leaves gives its permit back; one that reads slowly pauses the upstream. How soon: `tests/faults`."""

from __future__ import annotations

from pathlib import Path

from tests.rig import (
    Flood,
    Gate,
    RawClient,
    RelayProcess,
    Send,
    Stall,
    Upstream,
    chat,
    config,
    scenario,
)
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.scripts import Script


@scenario
async def test_a_client_that_leaves_gives_its_permit_back(tmp_path: Path) -> None:
    keys = [{"id": "one", "key": "sk-one-0123456789abcdef", "limits": {"concurrent": 1}}]
    held: Script = say.sse(say.EVENTS[:3], Gate("here"), Stall())
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        upstream.then(held)
        await client.send(
            request("POST", "/v1/chat/completions", chat_body(), key="sk-one-0123456789abcdef")
        )
        await client.head()
        refused = await relay.chat(key="sk-one-0123456789abcdef")
        await client.close()
        await relay.call(lambda line: line["outcome"] == "client_cancelled")
        again = await relay.chat(key="sk-one-0123456789abcdef")

        assert refused.status == 429
        assert again.text == say.TEXT


@scenario
async def test_a_reader_that_does_not_read_pauses_the_upstream(tmp_path: Path) -> None:
    piece = say.frame(say.delta({"content": "z" * 16_000}))
    times = 4096
    flood: Script = [Send(say.SSE_HEAD + say.frame(say.WORDS[0])), Flood(piece, times), Stall()]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address, receive_buffer=8192) as client,
    ):
        upstream.then(flood)
        await client.send(request("POST", "/v1/chat/completions", chat_body()))
        exchange = await upstream.exchange()

        # Ordinary calls go through meanwhile; when several in a row see no byte move, it stands still.
        still, sent = 0, -1
        while still < 8:
            assert (await chat(relay.address, stream=False)).status == 200
            still = still + 1 if exchange.sent == sent else 0
            sent = exchange.sent

        assert sent < 16 << 20, f"{sent} bytes were taken for a client that reads none"
        assert not exchange.played.is_set()
        before = sent
        await client.head()
        for _ in range(4096):
            if exchange.sent > before + (1 << 20):
                break
            await client.piece()
        assert exchange.sent > before, "it goes on when the client reads on"


@scenario
async def test_a_reader_that_never_reads_again_is_cut_off(tmp_path: Path) -> None:
    piece = say.frame(say.delta({"content": "z" * 16_000}))
    flood: Script = [Send(say.SSE_HEAD + say.frame(say.WORDS[0])), Flood(piece, 8192), Stall()]
    server = {"timeouts": {"write_stall": "300ms"}}
    async with (
        Upstream(flood) as upstream,
        RelayProcess(config({"a": upstream}, server=server), tmp_path) as relay,
        await RawClient.connect(relay.address, receive_buffer=8192) as client,
    ):
        await client.send(request("POST", "/v1/chat/completions", chat_body()))
        exchange = await upstream.exchange()
        await exchange.left()

        line = await relay.call()
        assert line["cause"] == "write_stall"
