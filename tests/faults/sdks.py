"""Every way to break a stream off, through every client that there is: none may take it for a whole answer."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.row import Break
from tests.faults.stage import Case, cases, staged
from tests.rig.deadlines import output
from tests.rig.raw_client import KEY, chat_body
from tests.rig.relay_process import RelayProcess
from tests.rig.sdks import SDKS, Sdk, absent, drive

CURL = "curl"
FETCH = "fetch of Node"
CUT_SHORT = 18
"""curl's exit code for a body that is not whole."""


@dataclass(frozen=True, slots=True)
class Met:
    """What one client met in one stream."""

    client: str
    case: Case
    looks_whole: bool
    complaint: str = ""


def broken_streams() -> list[Case]:
    """The usual call's: an SDK is not told of a row's own fields."""
    return [
        case
        for case in cases()
        if isinstance(case.row.must, Break)
        and (case.mode, case.setting) == ("stream", "alone")
        and not case.row.fields
    ]


async def through(directory: Path, folder: Path, clients: Sequence[Sdk | None]) -> list[Met]:
    """Each stream once through each client; None is curl."""
    played = broken_streams()
    found: list[Met] = []
    async with staged(played, directory, folder) as (relay, _, _):
        for sdk in clients:
            if sdk is None:
                found += await asyncio.gather(*(_curl(relay, case) for case in played))
            else:
                found += await _through(sdk, relay, played)
    return found


ALL: tuple[Sdk | None, ...] = (*SDKS, None)


async def _through(sdk: Sdk, relay: RelayProcess, played: Sequence[Case]) -> list[Met]:
    names = ",".join(case.name for case in played)
    seen = await drive(
        sdk, "broken", "http://{}:{}/v1".format(*relay.address), env={"MODELS": names}
    )
    found = []
    for way in ("sync", "async") if sdk.python else ("async",):
        name = f"{sdk.name}, {way}" if sdk.python else sdk.name
        found += [_judged(name, case, seen[way][case.name]) for case in played]
    if not sdk.python:
        for case in played:
            met = seen["fetch"][case.name]
            wrong = "" if met is None or _honest(met["text"]) else f"text: {met['text'][-200:]!r}"
            found.append(Met(f"{FETCH} ({sdk.name})", case, met is None, wrong))
    return found


def _judged(client: str, case: Case, met: Mapping[str, Any] | None) -> Met:
    """An SDK has to raise the error of its own that the event stands for, after all that came before it."""
    must = case.row.must
    assert isinstance(must, Break)
    if met is None:
        return Met(client, case, True)
    count = len(must.seen)
    wrong = ""
    if not met["is_api_error"] or met["code"] != must.code:
        wrong = f"raised {met['class']}, code {met['code']}"
    elif met["seen"] != count and must.cause != "total_timeout":
        wrong = f"{met['seen']} events instead of {count}"
    return Met(client, case, False, wrong)


def _honest(text: str) -> bool:
    return '"error"' in text and "[DONE]" not in text


async def _curl(relay: RelayProcess, case: Case) -> Met:
    if shutil.which("curl") is None:
        absent("curl is missing: `apt-get install curl`")
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sSN", "-X", "POST", "-H", f"Authorization: Bearer {KEY}"),
        *("-H", "Content-Type: application/json", "-d", chat_body(model=case.name).decode()),
        "http://{}:{}/v1/chat/completions".format(*relay.address),
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    text, said = await output(process)
    wrong = ""
    if process.returncode != CUT_SHORT or not _honest(text.decode("utf-8", "replace")):
        wrong = f"exit code {process.returncode}, {said.decode()!r}"
    return Met(CURL, case, process.returncode == 0, wrong)
