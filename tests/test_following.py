"""When the files are read anew, and how often somebody hears of it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relay.config.file import is_in_effect, load
from relay.config.model import Config
from relay.following import Following, Still, paths_of, signature_of
from relay.reload import Pace, Prepared, prepare
from tests.rig import scenario

GOOD = "models: {m: {static: hello}}\nkeys:\n- {id: a, key: sk-a-0123456789abcdef}\n"
OTHER = GOOD.replace("id: a", "id: b")
BAD = GOOD.replace("models", "modles")


class Serving:
    """Who serves by a file: takes what is good, and remembers what was done. Implements `following.Subject`."""

    def __init__(self, path: Path) -> None:
        path.write_text(GOOD)
        self._config = load(path, {})
        self._done = asyncio.Condition()
        self.done: list[str] = []

    @property
    def config(self) -> Config:
        return self._config

    async def read_anew(self, still: Still) -> list[str]:
        made = await asyncio.to_thread(prepare, self._config, {}, Pace(), None, still)
        if isinstance(made, Prepared):
            self._config = made.config
        await self._did("taken" if isinstance(made, Prepared) else "not taken")
        return made if isinstance(made, list) else []

    def reload_failed(self, faults: list[str]) -> None:
        self.done.append("told")

    async def _did(self, what: str) -> None:
        async with self._done:
            self.done.append(what)
            self._done.notify_all()

    async def until(self, *done: str) -> None:
        async with self._done:
            await self._done.wait_for(lambda: self.done[: len(done)] == list(done))


@asynccontextmanager
async def following(
    path: Path, *, watches: bool = True
) -> AsyncIterator[tuple[Serving, Following]]:
    serving = Serving(path)
    follower = Following(serving, Pace(), watches=watches)
    follower.start()
    try:
        yield serving, follower
    finally:
        await follower.close()


@scenario
async def test_what_is_wrong_is_tried_twice_and_told_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    async with following(path) as (serving, _):
        path.write_text(BAD)
        await serving.until("not taken", "not taken")
        path.write_text(OTHER)
        await serving.until("not taken", "not taken", "told", "taken")

        assert [key.id for key in serving.config.keys] == ["b"]


def test_a_file_that_was_only_touched_holds_what_is_in_effect(tmp_path: Path) -> None:
    path, keys = tmp_path / "config.yaml", tmp_path / "keys.jsonl"
    path.write_text(f"{GOOD}key_files: [keys.jsonl]\n")
    keys.write_bytes(b'\xef\xbb\xbf{"id": "b", "key": "sk-b-0123456789abcdef"}\n')
    config = load(path, {})

    os.utime(path, (1, 1))
    touched = is_in_effect(config)
    keys.write_bytes(b'{"id": "c", "key": "sk-c-0123456789abcdef"}\n')
    changed = is_in_effect(config)
    keys.unlink()

    assert (touched, changed, is_in_effect(config)) == (True, False, False)


@scenario
async def test_what_was_wrong_is_good_again_when_the_file_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    async with following(path) as (serving, follower):
        path.write_text(BAD)
        follower.ask()
        await serving.until("not taken")
        path.write_text(GOOD)
        await serving.until("not taken", "told", "taken")

        assert serving.done == ["not taken", "told", "taken"]


@scenario
async def test_who_does_not_watch_reads_when_asked_only(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    async with following(path, watches=False) as (serving, follower):
        path.write_text(BAD)
        follower.ask()
        await serving.until("not taken")
        path.write_text(OTHER)
        follower.ask()
        await serving.until("not taken", "told", "taken")

        assert serving.done == ["not taken", "told", "taken"]


@scenario
async def test_keys_that_expire_soon_are_named_again_and_again(tmp_path: Path) -> None:
    today = datetime.fromtimestamp(os.stat(tmp_path).st_mtime, UTC)
    soon = (today + timedelta(days=3)).date().isoformat()
    path = tmp_path / "config.yaml"
    serving = Serving(path)
    path.write_text(f"{GOOD}- {{id: s, key: sk-s-0123456789abcdef, expires: {soon}}}\n")
    assert await serving.read_anew(lambda: True) == []
    heard: asyncio.Queue[str] = asyncio.Queue()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.put_nowait(str(record.__dict__))

    ear = Ear()
    logging.getLogger("relay").addHandler(ear)
    follower = Following(serving, Pace(), watches=False, every=0.01)
    follower.start()
    try:
        lines = [await heard.get() for _ in range(2)]
    finally:
        logging.getLogger("relay").removeHandler(ear)
        await follower.close()

    assert all(f"keys: 's' expires within 14 days, the first at {soon}." in line for line in lines)


def test_a_signature_tells_contents_apart_that_have_the_same_size(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    serving = path.write_text(GOOD)
    config = load(path, {})
    seen = signature_of(paths_of(config))

    (tmp_path / "new").write_text(OTHER)
    os.utime(tmp_path / "new", ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))
    os.replace(tmp_path / "new", path)
    replaced = signature_of(paths_of(config))
    path.unlink()

    assert len(OTHER) == serving
    assert replaced != seen
    assert signature_of(paths_of(config)) == (None,)
