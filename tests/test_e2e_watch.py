"""Files that are changed are read: however they were changed, and not before they are whole."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.crew import about, several, shown
from tests.rig import SCALE, RelayProcess, Upstream, config, scenario
from tests.rig import scripts as say
from tests.rig.relay_process import Fields, Line

RELOADED = "relay_config_last_reload_successful"
WITHIN = 1.0
"""Seconds until a change is in effect, and the reading."""
READING = 1.0
HASH = "sha256:" + "ab" * 32

WORKERS = pytest.mark.parametrize("workers", [1, 2])


def about_reload(line: Line) -> bool:
    return "reload" in str(line.get("event"))


def fields(workers: int, *ids: str, **more: object) -> Fields:
    keys = [{"id": id, "key": f"sk-{id}-0123456789abcdef"} for id in ids]
    upstream = {"base_url": "http://127.0.0.1:9/v1"}
    return several(workers, config({"a": upstream}, {"m": {"static": "hello"}}, keys, **more))


def text_of(content: Fields) -> str:
    return json.dumps(content, indent=1) + "\n"


def in_three_days(folder: Path) -> str:
    today = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    return (today + timedelta(days=3)).date().isoformat()


async def status(relay: RelayProcess, id: str) -> int | None:
    return (await relay.chat(key=f"sk-{id}-0123456789abcdef")).status


async def reloads(relay: RelayProcess, number: int) -> Line:
    """The line of a reload, the first being 0."""
    return await relay.nth_log(number, about_reload)


@WORKERS
@scenario
async def test_a_change_is_in_effect_within_a_second(tmp_path: Path, workers: int) -> None:
    loop = asyncio.get_running_loop()
    async with RelayProcess(fields(workers, "a"), tmp_path, watches=True) as relay:
        before = [await status(relay, id) for id in "ab"]
        changed = loop.time()
        relay.write(fields(workers, "b"))
        line = await reloads(relay, 0)
        took = loop.time() - changed

        assert before == [200, 401]
        assert line["event"] == "reloaded"
        assert line["keys"] == ["-a", "+b"]
        assert [await status(relay, id) for id in "ab"] == [401, 200]
        assert took < (WITHIN + READING) * SCALE


@scenario
async def test_a_file_that_takes_the_place_of_another_is_read(tmp_path: Path) -> None:
    """As editors, `relay keys` and mounted folders do: a rename, and a link that points elsewhere."""
    for name, id in (("one", "a"), ("two", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text_of(fields(1, id)))
    (tmp_path / "now").symlink_to("one")
    path = tmp_path / "config.yaml"
    path.symlink_to("now/config.yaml")
    async with RelayProcess(path, tmp_path, watches=True) as relay:
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", tmp_path / "now")
        linked = await reloads(relay, 0)
        (tmp_path / "two" / "new").write_text(text_of(fields(1, "c")))
        os.replace(tmp_path / "two" / "new", tmp_path / "two" / "config.yaml")
        renamed = await reloads(relay, 1)

        assert linked["keys"] == ["-a", "+b"]
        assert renamed["keys"] == ["-b", "+c"]


@WORKERS
@scenario
async def test_a_key_file_is_followed_too(tmp_path: Path, workers: int) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text('{"id": "a", "key": "sk-a-0123456789abcdef"}\n')
    content = fields(workers, key_files=["keys.jsonl"])
    async with RelayProcess(content, tmp_path, watches=True) as relay:
        with file.open("a") as more:
            more.write('{"id": "b", "key": "sk-b-0123456789abcdef"}\n')
        line = await reloads(relay, 0)

        assert line["key_files"] == ["+b"]
        assert [await status(relay, id) for id in "ab"] == [200, 200]


@WORKERS
@scenario
async def test_what_is_wrong_is_told_once_and_what_is_right_again_too(
    tmp_path: Path, workers: int
) -> None:
    content = fields(workers, "a")
    async with RelayProcess(content, tmp_path, watches=True) as relay:
        good = relay.path.read_text()
        relay.path.write_text(good.replace('"models"', '"modles"'))
        failed = await reloads(relay, 0)
        await shown(relay, RELOADED, 0)
        still = await status(relay, "a")
        relay.path.unlink()
        gone = await reloads(relay, 1)
        relay.path.write_text(good)
        back = await reloads(relay, 2)
        await shown(relay, RELOADED, 1)

        assert failed["event"] == gone["event"] == "reload_failed"
        assert "did you mean 'models'" in failed["faults"][0]
        assert "cannot be read" in gone["faults"][0]
        assert back["event"] == "reloaded"
        assert (still, await status(relay, "a")) == (200, 200)
    assert len([line for line in relay.lines if about_reload(line)]) == 3


@scenario
async def test_a_file_that_is_being_written_is_left_alone_until_it_is_whole(tmp_path: Path) -> None:
    async with RelayProcess(fields(1, "a"), tmp_path, watches=True) as relay:
        text = text_of(fields(1, "b", "c", "d"))
        with relay.path.open("w") as file:
            for at in range(0, len(text), 40):
                file.write(text[at : at + 40])
                file.flush()
                # A writer that makes progress: each look of the relay sees another file.
                await status(relay, "a")
        line = await reloads(relay, 0)

        assert line["event"] == "reloaded"
        assert line["keys"] == ["-a", "+b", "+c", "+d"]


@scenario
async def test_a_file_that_ends_inside_a_line_is_half_of_one_unless_a_signal_says_it_is_whole(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.yaml"
    yaml = (
        "server: {listen: '127.0.0.1:0', workers: 1}\nadmin: {listen: '127.0.0.1:0'}\n"
        "models: {m: {static: hello}}\nkeys:\n- {id: a, key: sk-a-0123456789abcdef}\n"
        "- id: b\n  key: sk-b-0123456789abcdef\n  weight: 1000"
    )
    path.write_text(yaml + "\n")
    async with RelayProcess(path, tmp_path, watches=True) as relay:
        path.write_text(yaml[:-1])
        failed = await reloads(relay, 0)
        relay.reload()
        taken = await reloads(relay, 1)

        assert "ends inside a line" in failed["faults"][0]
        assert taken["event"] == "reloaded"


@scenario
async def test_a_signal_reads_the_files_as_before_and_nothing_is_told_twice(tmp_path: Path) -> None:
    async with RelayProcess(fields(1, "a"), tmp_path, watches=True) as relay:
        relay.write({"modles": {}})
        relay.reload()
        failed = await reloads(relay, 0)
        relay.write(fields(1, "b"))
        line = await reloads(relay, 1)

        assert failed["event"] == "reload_failed"
        assert line["event"] == "reloaded"
        assert line["keys"] == ["-a", "+b"]


@scenario
async def test_no_watch_waits_for_the_signal(tmp_path: Path) -> None:
    async with RelayProcess(fields(1, "a"), tmp_path) as relay:
        relay.write(fields(1, "b"))
        relay.write(fields(1, "c"))
        relay.reload()
        line = await reloads(relay, 0)

        assert line["keys"] == ["-a", "+c"]


@scenario
async def test_keys_that_expire_soon_are_named_at_start_and_at_a_reload(tmp_path: Path) -> None:
    soon = in_three_days(tmp_path)
    content = fields(1, "a")
    async with Upstream() as upstream, RelayProcess(content, tmp_path, watches=True) as relay:
        content = config({"a": upstream})
        content["keys"] += [{"id": "s", "hash": HASH, "expires": soon}]
        relay.write(content)
        line = await reloads(relay, 0)

        assert line["notices"] == [
            f"keys: 's' expires within 14 days, the first at {soon}.",
        ]
        assert (await relay.chat()).text == say.TEXT
        told = [other["notice"] for other in relay.lines if about("notice")(other)]
        assert told == line["notices"], "as a warning, once, since it is new"
