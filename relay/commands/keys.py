"""`relay keys new|rotate|revoke`: makes, replaces and takes away client keys, in the files where they stand."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import indent
from time import time
from typing import TYPE_CHECKING, Any, Final

from relay.commands.terms import OK, Command, Failure, config_path, note, say

if TYPE_CHECKING:
    from pathlib import Path

    from relay.keys.ring import Change, Found, Keyring

COUNTS: Final = {
    "rpm": "calls per minute",
    "tpm": "tokens per minute",
    "concurrent": "calls at once",
    "requests_per_day": "calls per day",
    "tokens_per_day": "tokens per day",
    "tokens_per_month": "tokens per month",
}
DOLLARS: Final = {"usd_per_day": "US$ per day", "usd_per_month": "US$ per month"}


def new(arguments: argparse.Namespace) -> int:
    from relay.keys.entries import entry_of, new_key

    path = config_path(arguments)
    key = new_key()
    limits = {name: getattr(arguments, name) for name in (*COUNTS, *DOLLARS)}
    writes = arguments.write or arguments.file is not None or arguments.dry_run
    with refusals():
        entry = entry_of(
            key,
            id=arguments.id,
            models=arguments.models,
            limits={name: _tidy(limit) for name, limit in limits.items() if limit is not None},
            group=arguments.group,
            expires=arguments.expires,
            allow_ips=arguments.allow_ip,
            weight=arguments.weight,
            abort_billing=arguments.abort_billing,
            on_revoke=arguments.on_revoke,
        )
        if writes or path.exists():
            _add(arguments, path, entry, key if writes else None)
    if not writes:
        _snippet(path, entry, key)
    return OK


def _tidy(limit: float) -> float:
    """20 and not 20.0."""
    return int(limit) if float(limit).is_integer() else limit


def _add(arguments: argparse.Namespace, path: Path, entry: dict[str, Any], key: str | None) -> None:
    """Looks whether the entry fits to the file, and with a key adds it."""
    from relay.keys.ring import opened

    with opened(path, os.environ) as ring:
        if ring.find(arguments.id) is not None:
            raise Failure(f"{path} already has a key with the id '{arguments.id}'")
        ring.allow_group(arguments.group)
        if key is None:
            return
        file = None if arguments.file is None else ring.file_named(arguments.file)
        change = ring.add([entry], file)
        write(change, arguments, key)
        _hint(arguments, f"'{arguments.id}' is added to {change.path}, as a hash.")


def _snippet(path: Path, entry: dict[str, Any], key: str) -> None:
    from relay.config.edit import key_entry

    say(key)
    snippet = indent(key_entry(entry), "  ").rstrip()
    note(f"This key is shown only now. Under keys: in {path} goes\n{snippet}")


def rotate(arguments: argparse.Namespace) -> int:
    from relay.config.values import read_duration
    from relay.keys.entries import new_key, rotated
    from relay.keys.ring import opened

    path = config_path(arguments)
    key = new_key()
    try:
        grace = read_duration(arguments.grace)
    except ValueError as error:
        raise Failure(f"--grace {error}") from None
    with refusals(), opened(path, os.environ) as ring:
        found = _found(ring, arguments.id)
        options = rotated(found.entry, key, grace, time())
        write(ring.change(found, options), arguments, key)
        until = options["previous"][-1]["until"] if grace else ""
        old = f"The old one is good until {until}." if grace else "The old one is good no more."
        _hint(arguments, f"'{arguments.id}' has a new key. {old}")
    return OK


def revoke(arguments: argparse.Namespace) -> int:
    from relay.keys.entries import revoked_and_cut
    from relay.keys.ring import opened

    path = config_path(arguments)
    with refusals(), opened(path, os.environ) as ring:
        found = _found(ring, arguments.id)
        if arguments.cut:
            change = ring.change(found, revoked_and_cut(found.entry))
            ends = "running answers are cut; its entry, left without a key, can go later"
        else:
            change = ring.remove(found)
            cut = found.entry.get("on_revoke") == "cut"
            ends = "running answers are cut" if cut else "running answers finish"
        write(change, arguments)
        _hint(arguments, f"'{arguments.id}' is revoked: {ends}.")
    return OK


# --- what they share ------------------------------------------------------------------------------


@contextmanager
def refusals() -> Iterator[None]:
    """What cannot be done is told in one line."""
    from relay.config.edit import EditRefused
    from relay.config.faults import ConfigErrors
    from relay.keys.entries import KeyRefused

    try:
        yield
    except (KeyRefused, EditRefused) as refused:
        raise Failure(str(refused)) from None
    except ConfigErrors as errors:
        raise Failure(str(errors.faults[0])) from None


def _found(ring: Keyring, id: str) -> Found:
    found = ring.find(id)
    if found is None:
        raise Failure(f"{ring.path} has no key with the id '{id}'")
    return found


def write(change: Change, arguments: argparse.Namespace, key: str | None = None) -> None:
    """Shows what changes and does it. The key is shown when it is sure to be of use, on stdout alone, so that it can
    be piped.
    """
    from relay.keys.ring import commit

    for line in change.diff:
        note(line)
    if not arguments.dry_run:
        commit(change)
        if key is not None:
            say(key)


def _hint(arguments: argparse.Namespace, done: str) -> None:
    if arguments.dry_run:
        note("Nothing is written.")
    elif arguments.run is revoke:
        note(f"{done} A running relay follows within a second, or at SIGHUP.")
    else:
        note(f"{done} The key is shown only now. A running relay follows within a second.")


def new_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--id", required=True, help="its name in logs and metrics")
    add("--models", required=True, nargs="+", metavar="GLOB", help="models it may use, '*' for all")
    for name, words in COUNTS.items():
        add(f"--{name.replace('_', '-')}", type=int, metavar="N", help=words)
    for name, words in DOLLARS.items():
        add(f"--{name.replace('_', '-')}", type=float, metavar="X", help=words)
    add("--group", metavar="NAME", help="a name from groups, whose limits count too")
    add("--expires", metavar="DATE", help="refused from then on (UTC), such as 2030-01-01")
    add("--allow-ip", nargs="+", metavar="NET", help="addresses it may come from")
    add("--weight", type=int, metavar="N", help="its share of a queue's turns")
    add("--abort-billing", choices=("delivered", "drain", "waive"), help="who pays when it leaves")
    add("--on-revoke", choices=("finish", "cut"), help="what becomes of answers that run")
    add("--write", action="store_true", help="add it to the configuration file")
    file_option(parser)
    dry_run_option(parser)


def file_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file",
        nargs="?",
        const="",
        metavar="FILE",
        help="add to this one of key_files (without FILE: the only one)",
    )


def dry_run_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and stop")


def rotate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="whose key it is")
    parser.add_argument(
        "--grace", default="24h", metavar="TIME", help="how long the old one stays good (24h)"
    )
    dry_run_option(parser)


def revoke_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="whose key it is")
    parser.add_argument("--cut", action="store_true", help="end its running answers, too")
    dry_run_option(parser)


COMMANDS: Final = (
    Command(("keys", "new"), "make a key for a client", new, new_options),
    Command(("keys", "rotate"), "put a new key in place of one", rotate, rotate_options),
    Command(("keys", "revoke"), "take a key away", revoke, revoke_options),
)
