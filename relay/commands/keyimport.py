"""`relay keys import`: takes keys over from elsewhere, all of them or none."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from relay.commands.keys import dry_run_option, file_option, refusals, write
from relay.commands.terms import OK, Command, Failure, config_path, note

MANY: Final = 1000
"""Entries of `keys` above which reading them takes a noticeable part of a second."""


def take(arguments: argparse.Namespace) -> int:
    from relay.config.faults import ConfigErrors
    from relay.keys.intake import entries_in
    from relay.keys.ring import opened

    path, name = config_path(arguments), arguments.source
    if name == "-":
        content = sys.stdin.buffer.read()
    else:
        with open(name, "rb") as source:
            content = source.read()
    with refusals(), opened(path, os.environ) as ring:
        file = None if arguments.file is None else ring.file_named(arguments.file)
        try:
            entries, weak = entries_in(content, name, ring)
        except ConfigErrors as errors:
            for fault in errors.faults:
                note(str(fault))
            raise Failure(f"nothing is imported from {name}") from None
        change = ring.add(entries, file)
        write(change, arguments)
        if weak:
            note(f"{len(weak)} keys are short enough to be guessed, such as '{weak[0]}'.")
        if file is None and len(entries) > MANY:
            note("So many are better off in key_files: see --file.")
        count = f"{len(entries)} key{'' if len(entries) == 1 else 's'}"
        note("Nothing is written." if arguments.dry_run else f"{count} added to {change.path}.")
    return OK


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="FILE", help="JSON lines with the fields of keys, or CSV; - for stdin"
    )
    file_option(parser)
    dry_run_option(parser)


COMMANDS: Final = (Command(("keys", "import"), "add many keys at once", take, _options),)
