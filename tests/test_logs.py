"""What is logged beside the calls: its two forms, and what is kept out of it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.observe import logs

CANARY = "sk-canary0123456789abcdef"
PROMPT = "the secret prompt"


class Sink:
    """A file that takes the logs of a test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def taking(self, *, human: bool | None = False, **env: str) -> Iterator[logs.Logs]:
        with self.path.open("wb") as file:
            taken = logs.setup(file.fileno(), level=logging.INFO, human=human, env=env)
            try:
                yield taken
            finally:
                assert taken.close(10.0)

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def sink(tmp_path: Path) -> Sink:
    return Sink(tmp_path / "stderr")


def test_an_event_is_one_line_of_json_with_its_fields(sink: Sink) -> None:
    with sink.taking():
        logs.get("upstream").info("upstream_state", upstream="main", state="open", failures=5)

    [line] = sink.lines
    assert list(line) == ["time", "level", "event", "upstream", "state", "failures"]
    assert line["level"] == "info"
    assert line["event"] == "upstream_state"
    assert line["failures"] == 5


def test_the_time_is_in_utc_with_milliseconds(sink: Sink) -> None:
    with sink.taking():
        record = logging.makeLogRecord(
            {"name": "relay.x", "levelno": 20, "levelname": "INFO", "msg": "start"}
        )
        record.created = 1_790_000_000.25
        logging.getLogger("relay.x").handle(record)

    [line] = sink.lines
    assert line["time"] == "2026-09-21T14:13:20.250Z"


def test_people_get_text(sink: Sink) -> None:
    with sink.taking(human=True, NO_COLOR="1"):
        logs.get("reload").warning(
            "reload_failed", file="config.yaml", faults=["a: b", "c"], old=None, kept=True
        )

    clock, rest = sink.text.split(" ", 1)
    assert len(clock) == len("14:13:20")
    assert rest == 'warning reload_failed file=config.yaml faults="a: b",c old=null kept=true\n'


@pytest.mark.parametrize(
    ("env", "colored"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_color_is_for_terminals_that_want_it(env: dict[str, str], colored: bool) -> None:
    ours, theirs = pty.openpty()
    taken = logs.setup(theirs, human=True, env=env)
    try:
        logs.get("x").error("broken")
    finally:
        taken.close()
    text = os.read(ours, 1000).decode()
    os.close(ours)
    os.close(theirs)

    assert "broken" in text
    assert ("\x1b[" in text) is colored


def test_text_in_a_file_has_no_color(sink: Sink) -> None:
    with sink.taking(human=True):
        logs.get("x").error("broken")

    assert "broken" in sink.text
    assert "\x1b[" not in sink.text


def test_a_file_is_no_terminal(sink: Sink) -> None:
    with sink.taking(human=None):
        logs.get("x").info("start")

    assert sink.lines[0]["event"] == "start"


@pytest.mark.parametrize("human", [False, True])
def test_nothing_makes_a_second_line_or_moves_the_cursor(sink: Sink, human: bool) -> None:
    with sink.taking(human=human, NO_COLOR="1"):
        logs.get("x").info("a\nb\x1b[2J", name="c\nd\x1b[2J\u2028e\u202ef", odd="\udc80")

    assert len(sink.text.splitlines()) == 1
    assert sink.text.removesuffix("\n").isprintable()


def test_below_the_level_nothing_is_written(sink: Sink) -> None:
    with sink.taking():
        logs.get("x").debug("detail")

    assert sink.text == ""


def test_credentials_are_redacted_wherever_they_are(sink: Sink) -> None:
    with sink.taking():
        log = logs.get("x")
        log.info(f"with {CANARY}", header=f"Authorization: Bearer {CANARY}", many=[CANARY])
        log.info("basic", header="Basic dXNlcjpwYXNz")

    assert "canary" not in sink.text
    assert "dXNlcjpwYXNz" not in sink.text
    assert sink.lines[0]["header"] == "Authorization: Bearer …"


def test_an_exception_is_told_by_type_and_place_only(sink: Sink) -> None:
    with sink.taking():
        try:
            try:
                raise KeyError(PROMPT)
            except KeyError as inner:
                raise ValueError(CANARY) from inner
        except ValueError as error:
            logs.get("proxy").crash("call_failed", error, request_id="req-1")

    [line] = sink.lines
    assert line["exception"] == "ValueError"
    assert line["caused_by"] == ["KeyError"]
    assert line["at"][-1].startswith("tests/test_logs.py:")
    assert line["request_id"] == "req-1"
    assert PROMPT not in sink.text
    assert "canary" not in sink.text


def test_an_error_of_the_system_keeps_its_name(sink: Sink) -> None:
    with sink.taking():
        try:
            Path("/nowhere/at/all").read_bytes()
        except OSError as error:
            logs.get("x").crash("no_file", error)

    assert sink.lines[0]["errno"] == "ENOENT"
    assert "nowhere" not in sink.text


def test_a_library_keeps_its_own_words_without_what_it_filled_in(sink: Sink) -> None:
    with sink.taking():
        try:
            raise ValueError(PROMPT)
        except ValueError:
            logging.getLogger("aiohttp.server").exception("Error handling request from %s", PROMPT)
        logging.getLogger("asyncio").error(
            f"Exception in callback send(b'{PROMPT}')\nhandle: {PROMPT}"
        )
        logging.getLogger("other").error("Bad header %r", CANARY)

    first, second, third = sink.lines
    assert first["event"] == "library"
    assert first["logger"] == "aiohttp.server"
    assert first["message"] == "Error handling request from %s"
    assert first["exception"] == "ValueError"
    assert second["message"] == "Exception in callback send"
    assert third["message"] == "Bad header %r"
    assert PROMPT not in sink.text
    assert "canary" not in sink.text


def test_libraries_are_heard_from_warnings_on(sink: Sink) -> None:
    with sink.taking():
        logging.getLogger("aiohttp.access").info("GET /")
        logging.getLogger("asyncio").warning("slow")

    assert [line["message"] for line in sink.lines] == ["slow"]


def test_warnings_of_python_are_logged(sink: Sink) -> None:
    with sink.taking(), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)

    [line] = sink.lines
    assert line["logger"] == "py.warnings"
    assert "DeprecationWarning: old thing" in line["message"]


def test_an_object_is_named_by_its_type(sink: Sink) -> None:
    class Holder:
        def __repr__(self) -> str:
            return PROMPT

    with sink.taking():
        logging.getLogger("relay.x").info("odd", extra={"fields": {"what": Holder(), "raw": b"x"}})

    assert sink.lines[0]["what"] == "<Holder>"
    assert sink.lines[0]["raw"] == "<bytes>"


def test_a_long_text_is_cut(sink: Sink) -> None:
    with sink.taking():
        logs.get("x").info("long", text="a" * 1_000_000)

    assert len(sink.text) < logs.LONGEST + 200


def test_after_the_close_logging_is_as_it_was(sink: Sink) -> None:
    before = logging.getLogger().handlers.copy()

    with sink.taking() as taken:
        pass

    assert logging.getLogger().handlers == before
    assert taken.dropped == 0
