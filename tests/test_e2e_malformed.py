"""Thousands of bad requests: never a 500, never a hang, and a good one is served after each."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest

from tests.rig import RawClient, RelayProcess, Upstream, config, scenario
from tests.rig.malformed import Bad, requests
from tests.rig.raw_client import Address, chat_body, request

GOOD = request("POST", "/v1/chat/completions", chat_body(stream=False))
LONGEST = 5.0
"""Seconds any answer may take."""


async def outcome(address: Address, bad: Bad) -> str:
    """The status, or how it ended without one."""
    async with await RawClient.connect(address) as client:
        with contextlib.suppress(ConnectionError):
            await client.send(bad.data)
            if bad.may_wait:
                client.half_close()
        try:
            await client.head(to=bad.data.split(b" ", 1)[0].decode("latin-1"), timeout=LONGEST)
            answer = await client.rest(LONGEST)
        except EOFError:
            return "closed"
    if answer.status not in (200, 204) and answer.body:
        assert answer.error["message"]
        assert answer.headers["x-request-id"]
    return str(answer.status)


@scenario
async def test_two_thousand_malformed_requests_do_no_harm(tmp_path: Path) -> None:
    bads = requests(seed=20261124)
    assert len(bads) >= 2000
    seen: Counter[str] = Counter()
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as steady,
    ):
        for number, bad in enumerate(bads):
            try:
                ended = await outcome(relay.address, bad)
                good = await steady.ask(GOOD, LONGEST)
            except (AssertionError, TimeoutError, EOFError) as error:
                pytest.fail(f"{number}, {bad.name}: {error!r}\n{bad.data[:600]!r}")
            allowed = ended.startswith("4") or ended in ("505", "508")
            allowed |= bad.may_be_served and ended in ("200", "204")
            allowed |= bad.may_wait and ended == "closed"
            assert allowed, f"{number}, {bad.name}: {ended}\n{bad.data[:600]!r}"
            assert good.status == 200, f"after {number}, {bad.name}"
            seen[ended] += 1

        assert seen["400"] > 500, seen
