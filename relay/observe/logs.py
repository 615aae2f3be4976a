"""Everything that is logged beside the calls: JSON lines on stderr, or text for people when that is a terminal.

Rules that hold here:
- what we log is an event with fields, chosen by us; an unknown object is named by its type, never by its repr;
- of an exception the type and the places are logged, never its message: that may quote a prompt or a header;
- what libraries log is kept to their own words, without what they filled in, for the same reason;
- nobody waits for a blocked sink (see `linewriter`), and one record is one line.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Mapping
from pathlib import PurePath
from time import gmtime, strftime
from traceback import StackSummary, walk_tb
from typing import Protocol

import msgspec

from relay.observe.linewriter import LineWriter, PromptWriter, plain_lines, storable


class Shown(str):
    """A text that is meant to be read as it stands: the demo key, which opens this run's demo from this host alone; or
    what somebody has asked to see, `without_credentials`."""

    __slots__ = ()


Writer = LineWriter | PromptWriter

Field = str | int | float | bool | list[str] | None

CLOSE_WAIT = 1.0
"""Seconds the end of the process waits for stderr to take what is left."""

LONGEST = 2000
"""Characters of one text."""

DEEPEST = 20
"""Places of a traceback, the innermost ones."""

_CREDENTIAL = re.compile(r"(?i)\b(bearer|basic)\s+[^\s,;]+|\bsk-[\w-]{6,}")
_FILLED_IN = re.compile(r"""[\n'"`(<{\[]""")
_BARE = re.compile(r"[\w.:/@%+,*#~-]+")
_COLORS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31;1m"}
_PLAIN = "\x1b[0m"

_encode = msgspec.json.Encoder().encode


class Log:
    """Where one part of the relay logs its events. Stateless."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **fields: Field) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Field) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Field) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Field) -> None:
        self._log(logging.ERROR, event, fields)

    def crash(self, event: str, error: BaseException, /, **fields: Field) -> None:
        """A bug of ours: at level error, with the exception's type and places."""
        self._log(logging.ERROR, event, {**fields, **_describe(error)})

    def _log(self, level: int, event: str, fields: Mapping[str, Field]) -> None:
        self._logger.log(level, event, extra={"fields": fields})


def get(name: str) -> Log:
    """The log of a part (`reload`, `upstream`). Usable before `setup`; Python's own rules hold until then."""
    return Log(logging.getLogger(f"relay.{name}"))


class Logs:
    """The handler of the whole process, from `setup` to `close`."""

    __slots__ = ("_handler", "_writer")

    def __init__(self, handler: logging.Handler, writer: Writer) -> None:
        self._handler = handler
        self._writer = writer

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._writer.dropped

    def close(self, timeout: float = CLOSE_WAIT) -> bool:
        """Waits up to `timeout` seconds for the sink. False if lines had to be left behind."""
        logging.getLogger().removeHandler(self._handler)
        logging.captureWarnings(False)
        return self._writer.close(timeout)


def setup(
    fd: int = 2,
    *,
    level: int = logging.INFO,
    human: bool | None = None,
    env: Mapping[str, str] = os.environ,
    writer: Writer | None = None,
    origin: Mapping[str, Field] | None = None,
) -> Logs:
    """Takes over all logging of the process: ours from `level` on, that of libraries from warnings on.

    `human` chooses text for people, None asks whether `fd` is a terminal. `origin` is added to every line.
    """
    if human is None:
        human = os.isatty(fd)
    color = human and os.isatty(fd) and not env.get("NO_COLOR") and env.get("TERM") != "dumb"
    if writer is None:
        writer = LineWriter(fd)
    handler = _Handler(writer, _Text(color) if human else _Json(), origin or {})
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("relay").setLevel(level)
    logging.captureWarnings(True)
    return Logs(handler, writer)


class _Form(Protocol):
    def render(self, created: float, level: str, event: str, fields: dict[str, Field]) -> bytes:
        """One line with its line feed."""


class _Handler(logging.Handler):
    def __init__(self, writer: Writer, form: _Form, origin: Mapping[str, Field]) -> None:
        super().__init__()
        self._writer = writer
        self._form = form
        self._origin = origin

    def emit(self, record: logging.LogRecord) -> None:
        given: Mapping[str, object] = getattr(record, "fields", {})
        event = record.getMessage() if _is_ours(record) else "library"
        fields = {name: _clean(value) for name, value in given.items()}
        fields |= _origin(record)
        fields |= self._origin
        level = record.levelname.lower()
        self._writer.write(self._form.render(record.created, level, _tidy(event), fields), 1)

    def close(self) -> None:
        # `logging` calls this at the exit of the interpreter: the reason of an end is often the last line.
        self._writer.close(CLOSE_WAIT)
        super().close()


class _Json:
    def render(self, created: float, level: str, event: str, fields: dict[str, Field]) -> bytes:
        second = int(created)
        time = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        head = {"time": f"{time}.{int((created - second) * 1000):03d}Z", "level": level}
        return plain_lines(_encode({**head, "event": event, **fields})) + b"\n"


class _Text:
    def __init__(self, color: bool) -> None:
        self._color = color

    def render(self, created: float, level: str, event: str, fields: dict[str, Field]) -> bytes:
        shown = level
        if self._color and level in _COLORS:
            shown = _COLORS[level] + level + _PLAIN
        parts = [strftime("%H:%M:%S", gmtime(created)), shown]
        parts.append(event if event.isprintable() else _quoted(event))
        parts += [f"{name}={_quoted(value)}" for name, value in fields.items()]
        return " ".join(parts).encode() + b"\n"


def _quoted(value: Field) -> str:
    if isinstance(value, list):
        return ",".join(_quoted(item) for item in value)
    if isinstance(value, str) and _BARE.fullmatch(value):
        return value
    return plain_lines(_encode(value)).decode()


def _clean(value: object) -> Field:
    """A value as it may be logged: without credentials, encodable, of bounded length."""
    if isinstance(value, Shown):
        return str(value)
    if isinstance(value, str):
        return _tidy(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [str(_clean(item)) for item in value]
    return f"<{type(value).__name__}>"


def without_credentials(text: str) -> Shown:
    """All of a text but the keys and tokens in it, encodable."""
    return Shown(storable(_CREDENTIAL.sub(_redacted, text)))


def _tidy(text: str) -> str:
    text = storable(_CREDENTIAL.sub(_redacted, text[: LONGEST + 1]))
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _redacted(match: re.Match[str]) -> str:
    scheme = match[1]
    return f"{scheme} …" if scheme else "sk-…"


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.startswith("relay.")


def _origin(record: logging.LogRecord) -> dict[str, Field]:
    """Whose record it is: of a library its own words, without the arguments or the reprs in them; any exception."""
    fields: dict[str, Field] = {}
    if not _is_ours(record):
        template = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        if template == "%s" and isinstance(record.args, tuple) and record.args:
            # The form of Python's warnings: all of it is the argument.
            template = str(record.args[0])
        fields["logger"] = record.name
        fields["message"] = _tidy(_FILLED_IN.split(template, maxsplit=1)[0].strip())
    if record.exc_info and record.exc_info[1] is not None:
        fields.update(_describe(record.exc_info[1]))
    return fields


def _describe(error: BaseException) -> dict[str, Field]:
    """The type of an exception, the types it followed from, and where it came by."""
    types = [type(error).__name__]
    cause = error.__cause__ or error.__context__
    while cause is not None and len(types) < DEEPEST:
        types.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    described: dict[str, Field] = {"exception": types[0]}
    if isinstance(error, OSError) and error.errno is not None:
        described["errno"] = errno.errorcode.get(error.errno, str(error.errno))
    if len(types) > 1:
        described["caused_by"] = list(types[1:])
    frames = StackSummary.extract(walk_tb(error.__traceback__), lookup_lines=False)
    described["at"] = [
        f"{'/'.join(PurePath(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}"
        for frame in frames[-DEEPEST:]
    ]
    return described
