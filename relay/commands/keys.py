"""`relay keys`: makes and changes client keys."""

from __future__ import annotations

import argparse
from textwrap import indent
from typing import Final

from relay.commands.terms import OK, Command, Failure, config_path, note, say

RATES: Final = ("rpm", "tpm", "concurrent")


def new(arguments: argparse.Namespace) -> int:
    from relay.config.file import ConfigErrors, EditRefused, append_key, key_entry, key_ids
    from relay.keys import KeyRefused, entry_of, new_key

    path = config_path(arguments)
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
    say(key)
    if arguments.write:
        note(f"'{arguments.id}' is added to {path}, as a hash: this key is shown only now.")
    else:
        snippet = indent(key_entry(entry), "  ").rstrip()
        note(f"This key is shown only now. Under keys: in {path} goes\n{snippet}")
    return OK


def new_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--id", required=True, help="its name in logs and metrics")
    add("--models", required=True, nargs="+", metavar="GLOB", help="models it may use, '*' for all")
    add("--rpm", type=int, metavar="N", help="calls per minute")
    add("--tpm", type=int, metavar="N", help="tokens per minute")
    add("--concurrent", type=int, metavar="N", help="calls at once")
    add("--expires", metavar="DATE", help="refused from then on (UTC), such as 2030-01-01")
    add("--write", action="store_true", help="add it to the configuration file")


COMMANDS: Final = (Command(("keys", "new"), "make a key for a client", new, new_options),)
