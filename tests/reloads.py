"""Many reloads under load, every tenth of them of a file that is wrong or half written: no call may notice.

    python -m tests.reloads --reloads 1000

Files are replaced and written in place, whole and in two parts, by hand and by `relay keys`; read because of a signal
or because they have changed. The keys that call stand last in their files, so that a file of which a part is taken
for the whole lets calls fail. The exit code is 1 when anything was not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from hashlib import sha256
from io import StringIO
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from relay.cli import main as relay_command
from relay.keys.entries import hash_of
from tests.crew import HELD
from tests.rig import End, RawClient, RelayProcess, Upstream
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.relay_process import Line

CALLERS: Final = 3
SPAN: Final = 7
"""Reloads that a long stream outlives."""
KEYS: Final = {name: f"sk-{name}-0123456789abcdef" for name in ("kept", "filed")}

KINDS: Final = {
    "replaced, signal": 33,
    "in place, signal": 28,
    "key file, signal": 15,
    "replaced, watched": 4,
    "in place, watched": 4,
    "relay keys, watched": 4,
    "in two parts, watched": 2,
    "wrong, signal": 6,
    "wrong, watched": 1,
    "half, watched": 3,
}
"""What comes how often, of a hundred. The last three are refused."""
REFUSED: Final = ("wrong, signal", "wrong, watched", "half, watched")


@dataclass
class Found:
    """What came of it."""

    workers: int
    kinds: Counter[str] = field(default_factory=Counter)
    reloaded: int = 0
    refused: int = 0
    calls: int = 0
    long_streams: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    unasked: list[float] = field(default_factory=list)
    """Seconds from the end of a change that nobody told of to the line that says it is in effect."""

    @property
    def right(self) -> bool:
        return not self.failed and self.calls > 0

    def told(self) -> dict[str, Any]:
        times = sorted(self.unasked)
        unasked = {"N": len(times), "median": median(times), "worst": times[-1]} if times else {}
        return vars(self) | {
            "kinds": dict(self.kinds),
            "failed": self.failed[:5],
            "unasked": unasked,
            "N": self.calls,
        }


class Files:
    """The configuration of the relay, and the ways in which it changes."""

    def __init__(
        self, folder: Path, upstreams: dict[str, Upstream], workers: int, seed: int
    ) -> None:
        self.path = folder / "config.yaml"
        self.keys = folder / "keys.jsonl"
        self._folder = folder
        self._random = Random(seed)
        self._version = 0
        self._extra: list[str] = []
        self._broken = False
        """What stands there cannot be used."""
        self._head = {
            "server": {"listen": "127.0.0.1:0", "workers": workers},
            "admin": {"listen": "127.0.0.1:0"},
            "state": {"path": str(folder / "state")},
            "upstreams": {
                name: {"base_url": upstream.base_url, "api_keys": [f"sk-upstream-{name}"]}
                for name, upstream in upstreams.items()
            },
            "models": {
                "m": {"pool": [{"upstream": "quick"}]},
                "long": {"pool": [{"upstream": "slow"}]},
            },
            "key_files": ["keys.jsonl"],
        }
        self.keys.write_text(self._lines())
        self.path.write_text(self.text())

    def text(self) -> str:
        """The next version: other keys than before, and those that call at the end."""
        self._version += 1
        if len(self._extra) > 20:
            del self._extra[self._random.randrange(len(self._extra))]
        self._extra.append(f"extra-{self._version}")
        lines = [f"{name}: {json.dumps(value)}" for name, value in self._head.items()]
        lines += [f"# version {self._version}", "keys:"]
        for id in self._extra:
            lines += [f"  - id: {id}   # comes and goes", f"    hash: {hash_of(id)}"]
            lines += [f"    limits: {{rpm: {self._random.randrange(1, 10_000)}}}"]
        lines += ["  - id: kept", f"    key: {KEYS['kept']}", "    limits: {rpm: 100000000}"]
        return "\n".join(lines) + "\n"

    def _lines(self) -> str:
        self._version += 1
        others = [
            {"id": f"f-{self._version}-{number}", "hash": hash_of(f"{self._version} {number}")}
            for number in range(50)
        ]
        kept = {"id": "filed", "hash": hash_of(KEYS["filed"]), "limits": {"concurrent": 100_000}}
        return "".join(json.dumps(entry) + "\n" for entry in (*others, kept))

    @property
    def digest(self) -> str:
        """As the log shows it."""
        whole = sha256(self.path.read_bytes())
        whole.update(sha256(self.keys.read_bytes()).digest())
        return whole.hexdigest()[:12]

    # --- the ways of writing ----------------------------------------------------------------------

    def replaced(self) -> None:
        new = self._folder / "new"
        new.write_text(self.text())
        os.replace(new, self.path)

    def in_place(self) -> None:
        self.path.write_text(self.text())

    def _mended(self) -> None:
        if self._broken:
            self.replaced()
            self._broken = False

    def key_file(self) -> None:
        self._mended()
        self.keys.write_text(self._lines())

    def by_command(self) -> None:
        """What an admin does, with its words swallowed."""
        self._mended()
        id = self._random.choice(self._extra)
        what = self._random.choice(
            [["rotate", id], ["new", "--id", f"made-{self._version}", "--models", "*", "--file"]]
        )
        self._version += 1
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
            code = relay_command(["-c", str(self.path), "keys", *what])
        assert code == 0, said.getvalue()

    def in_two_parts(self) -> None:
        """Flushed anywhere: nobody who looks in between may take the first part for the file."""
        text = self.text()
        cut = self._random.randrange(1, len(text))
        with self.path.open("w") as file:
            file.write(text[:cut])
            file.flush()
            os.fsync(file.fileno())
            file.write(text[cut:])

    def wrong(self) -> None:
        self._broken = True
        text = self.text()
        self.path.write_text(
            self._random.choice(
                [
                    text.replace("models:", "modles:", 1),
                    text.replace("keys:\n", "keys: {\n", 1),
                    text + "  - id: kept\n    key: sk-twice-0123456789abcdef\n",
                    text.replace('"upstream": "quick"', '"upstream": "nobody"'),
                    "",
                ]
            )
        )

    def half(self) -> None:
        """As a full disk leaves it: cut off inside a line."""
        self._broken = True
        text = self.text()
        inside = [at for at in range(1, len(text)) if "\n" not in text[at - 1 : at + 1]]
        self.path.write_text(text[: self._random.choice(inside)])


class Run:
    """One relay with its callers."""

    def __init__(self, relay: RelayProcess, files: Files, slow: Upstream, found: Found) -> None:
        self._relay = relay
        self._files = files
        self._slow = slow
        self._found = found
        self._over = False
        self._seen: set[int] = set()

    async def play(self, kinds: list[str]) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(self._call(number))
            for number in range(0, len(kinds), SPAN):
                await self._outlives(kinds[number : number + SPAN])
            self._over = True
        self._found.seconds = round(loop.time() - begin, 1)

    async def _call(self, number: int) -> None:
        """Calls again and again, streamed or not, by one key or the other."""
        turn = number
        while not self._over:
            turn += 1
            key = list(KEYS.values())[turn % 2]
            stream = turn % 3 > 0
            answer = await self._relay.chat(key=key, stream=stream)
            whole = answer.text == say.TEXT if stream else answer.status == 200
            self._found.calls += 1
            if not whole or answer.end is not End.CLEAN or answer.status != 200:
                self._found.failed.append(f"{answer.status} {answer.end} {answer.body[-200:]!r}")

    async def _outlives(self, kinds: list[str]) -> None:
        """A stream that goes on over several reloads, under the configuration that it began with."""
        body = chat_body(model="long")
        async with await RawClient.connect(self._relay.address) as client:
            await client.send(request("POST", "/v1/chat/completions", body, key=KEYS["kept"]))
            await client.head()
            exchange = await self._slow.exchange(self._found.long_streams)
            await exchange.reached("end")
            for kind in kinds:
                await self._reload(kind)
            exchange.open("end")
            answer = await client.rest()
        self._found.long_streams += 1
        if answer.text != say.TEXT or answer.end is not End.CLEAN:
            self._found.failed.append(f"long: {answer.end} {answer.events[-1:]!r}")

    # --- one reload -------------------------------------------------------------------------------

    async def _reload(self, kind: str) -> None:
        files, found = self._files, self._found
        how, _, why = kind.partition(", ")
        write = {
            "replaced": files.replaced,
            "in place": files.in_place,
            "key file": files.key_file,
            "relay keys": files.by_command,
            "in two parts": files.in_two_parts,
            "wrong": files.wrong,
            "half": files.half,
        }[how]
        write()
        begin = asyncio.get_running_loop().time()
        if why == "signal":
            self._relay.reload()
        found.kinds[kind] += 1
        if kind in REFUSED:
            await self._until_refused()
            found.refused += 1
            return
        digest = files.digest
        await self._relay.log(
            lambda line: line.get("event") == "reloaded" and line.get("digest") == digest
        )
        found.reloaded += 1
        if why == "watched":
            took = asyncio.get_running_loop().time() - begin
            found.unasked.append(round(took, 3))

    async def _until_refused(self) -> None:
        def is_new(line: Line) -> bool:
            return line.get("event") == "reload_failed" and id(line) not in self._seen

        line = await self._relay.log(is_new)
        self._seen.add(id(line))


def plan(count: int, seed: int) -> list[str]:
    """So many reloads in any order, and a good one at the end."""
    kinds = [kind for kind, share in KINDS.items() for _ in range(max(1, count * share // 100))]
    kinds += ["replaced, signal"] * (count - len(kinds))
    Random(seed).shuffle(kinds)
    return [*kinds[: count - 1], "replaced, signal"]


async def run(workers: int, count: int, folder: Path, seed: int = 1) -> Found:
    found = Found(workers)
    async with Upstream() as quick, Upstream(HELD) as slow:
        files = Files(folder, {"quick": quick, "slow": slow}, workers, seed)
        async with RelayProcess(files.path, folder, watches=True) as relay:
            await Run(relay, files, slow, found).play(plan(count, seed))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reloads")
    parser.add_argument("--reloads", type=int, default=1000, help="for each number of workers")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    right = True
    for workers in options.workers:
        with TemporaryDirectory() as folder:
            found = asyncio.run(run(workers, options.reloads, Path(folder), options.seed))
        sys.stdout.write(json.dumps(found.told()) + "\n")
        sys.stdout.flush()
        right = right and found.right
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
