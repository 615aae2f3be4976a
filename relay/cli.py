"""The `relay` command: the table of commands, and what a Unix user expects around them.

Results go to stdout, reasons to stderr in one line, never a traceback. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from relay import __version__
from relay.commands import bench, explain, keyimport, keylist, keys, serving, top, usage
from relay.commands.terms import FAILED, Failure

INTERRUPTED: Final = 130
"""What shells report for a program ended by Ctrl-C."""

COMMANDS: Final = (
    *serving.COMMANDS,
    *keys.COMMANDS,
    *keylist.COMMANDS,
    *keyimport.COMMANDS,
    *explain.COMMANDS,
    *usage.COMMANDS,
    *bench.COMMANDS,
    *top.COMMANDS,
)
GROUPS: Final = {"keys": "make and change client keys"}


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
