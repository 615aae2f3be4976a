"""The `relay` command: one row of `COMMANDS` per command, and what a Unix user expects around them.

Results go to stdout, reasons to stderr in one line, never a traceback. Exit codes: 0 done, 1 failed, 2 wrong usage.
A command imports what it needs when it runs, so that `relay --help` and `relay check` start at once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from relay import __version__

if TYPE_CHECKING:
    from relay.config.file import ConfigErrors
    from relay.config.model import Config

OK: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130
"""What shells report for a program ended by Ctrl-C."""

RATES: Final = ("rpm", "tpm", "concurrent")


class Failure(Exception):
    """The command failed; the message is the one line that says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that knows ASCII only is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (`head`, `less`) has seen enough. The interpreter must not try to flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Failure as failure:
        return _complain(str(failure))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}")


def _complain(reason: str) -> int:
    print(f"relay: {reason}", file=sys.stderr)
    return FAILED


def _say(text: str) -> None:
    print(text)


def _note(text: str) -> None:
    print(text, file=sys.stderr)


# --- serve, check, schema -------------------------------------------------------------------------


def serve(arguments: argparse.Namespace) -> int:
    from relay.config.file import ConfigErrors

    path = _config_path(arguments)
    from relay.workers.start import serve as serve_config

    try:
        return serve_config(path, human=True if arguments.text else None)
    except ConfigErrors as errors:
        raise _failure(errors, path, _note) from None


def check(arguments: argparse.Namespace) -> int:
    from relay.config.file import ConfigErrors, load

    path = _config_path(arguments)
    try:
        config = load(path, os.environ)
    except ConfigErrors as errors:
        if arguments.json:
            _say(_json({"file": str(path), "ok": False, "faults": _faults(errors), "notices": []}))
            return FAILED
        raise _failure(errors, path, _say) from None
    if arguments.json:
        _say(_json({"file": str(path), "ok": True, "faults": [], "notices": config.notices}))
        return OK
    _say(f"{path}: ok: {_summary(config)}")
    for notice in config.notices:
        _say(f"  note: {notice}")
    return OK


def schema(_: argparse.Namespace) -> int:
    from relay.config.schema import render

    _say(render().rstrip("\n"))
    return OK


def _faults(errors: ConfigErrors) -> list[dict[str, Any]]:
    names = ("file", "line", "column", "path", "message")
    return [{name: getattr(fault, name) for name in names} for fault in errors.faults]


def _summary(config: Config) -> str:
    parts = (
        (len(config.active_upstreams), "upstream"),
        (len(config.models), "model"),
        (sum(key.digest is not None for key in config.keys) + len(config.filed), "key"),
    )
    return ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in parts)


def _failure(errors: ConfigErrors, path: Path, tell: Callable[[str], None]) -> Failure:
    """Tells every fault; a file that could not be read at all needs no more than its reason."""
    faults = errors.faults
    if not faults[0].line:
        return Failure(str(faults[0]))
    for fault in faults:
        tell(str(fault))
    files = "" if all(fault.file == str(path) for fault in faults) else " with its key files"
    return Failure(f"{path}{files} has {len(faults)} fault{'' if len(faults) == 1 else 's'}")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


# --- keys -----------------------------------------------------------------------------------------


def keys_new(arguments: argparse.Namespace) -> int:
    from relay.config.file import ConfigErrors, EditRefused, append_key, key_entry, key_ids
    from relay.keys import KeyRefused, entry_of, new_key

    path = _config_path(arguments)
    key = new_key()
    limits = {name: getattr(arguments, name) for name in RATES}
    try:
        entry = entry_of(
            key,
            id=arguments.id,
            models=arguments.models,
            limits={name: limit for name, limit in limits.items() if limit is not None},
            expires=arguments.expires,
        )
        if (arguments.write or path.exists()) and arguments.id in key_ids(path):
            raise Failure(f"{path} already has a key with the id '{arguments.id}'")
        if arguments.write:
            append_key(path, entry)
    except (KeyRefused, EditRefused) as refused:
        raise Failure(str(refused)) from None
    except ConfigErrors as errors:
        raise Failure(str(errors.faults[0])) from None
    # The key is shown when it is sure to be of use, on stdout alone, so that it can be piped.
    _say(key)
    if arguments.write:
        _note(f"'{arguments.id}' is added to {path}, as a hash: this key is shown only now.")
    else:
        snippet = indent(key_entry(entry), "  ").rstrip()
        _note(f"This key is shown only now. Under keys: in {path} goes\n{snippet}")
    return OK


# --- the command line -----------------------------------------------------------------------------


class Command(NamedTuple):
    """A row of the table of commands."""

    words: tuple[str, ...]
    help: str
    run: Callable[[argparse.Namespace], int]
    options: Callable[[argparse.ArgumentParser], None] = lambda _: None


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", action="store_true", help="text on stderr, also where it is no terminal"
    )


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="faults and notices as JSON")


def _keys_new_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--id", required=True, help="its name in logs and metrics")
    add("--models", required=True, nargs="+", metavar="GLOB", help="models it may use, '*' for all")
    add("--rpm", type=int, metavar="N", help="calls per minute")
    add("--tpm", type=int, metavar="N", help="tokens per minute")
    add("--concurrent", type=int, metavar="N", help="calls at once")
    add("--expires", metavar="DATE", help="refused from then on (UTC), such as 2030-01-01")
    add("--write", action="store_true", help="add it to the configuration file")


COMMANDS: Final = (
    Command(("serve",), "serve until stopped", serve, _serve_options),
    Command(("check",), "say what is wrong with the configuration", check, _check_options),
    Command(("schema",), "print the configuration's JSON Schema", schema),
    Command(("keys", "new"), "make a key for a client", keys_new, _keys_new_options),
)
GROUPS: Final = {"keys": "make and change client keys"}


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    # Without a default here, so that an option before the command is not undone after it.
    shared.add_argument(
        *("-c", "--config"),
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="the configuration ($RELAY_CONFIG, or ./config.yaml)",
    )
    shape: dict[str, Any] = {"parents": [shared], "allow_abbrev": False}
    parser = _Parser(prog="relay", description="A relay for OpenAI-compatible APIs.", **shape)
    parser.add_argument("--version", action="version", version=f"relay {__version__}")
    branches: dict[tuple[str, ...], Any] = {(): _branch(parser)}
    for command in COMMANDS:
        *group, word = command.words
        above = tuple(group)
        if above not in branches:
            middle = branches[()].add_parser(above[0], help=GROUPS[above[0]], **shape)
            branches[above] = _branch(middle)
        leaf = branches[above].add_parser(word, help=command.help, **shape)
        leaf.set_defaults(run=command.run)
        command.options(leaf)
    return parser


def _branch(parser: argparse.ArgumentParser) -> Any:
    return parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)


def _config_path(arguments: argparse.Namespace) -> Path:
    given: Path | None = getattr(arguments, "config", None)
    return given or Path(os.environ.get("RELAY_CONFIG") or "config.yaml")
