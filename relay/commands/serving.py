"""`relay serve`, `relay check`, `relay schema`."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, Final

from relay.commands.terms import FAILED, OK, Command, as_json, config_path, failure, note, say

if TYPE_CHECKING:
    from relay.config.file import ConfigErrors
    from relay.config.model import Config


def serve(arguments: argparse.Namespace) -> int:
    from relay.config.file import ConfigErrors

    path = config_path(arguments)
    from relay.workers.start import serve as serve_config

    try:
        human = True if arguments.text else None
        return serve_config(path, human=human, watches=not arguments.no_watch)
    except ConfigErrors as errors:
        raise failure(errors, path, note) from None


def check(arguments: argparse.Namespace) -> int:
    from relay.config.file import ConfigErrors, load

    path = config_path(arguments)
    try:
        config = load(path, os.environ)
    except ConfigErrors as errors:
        if arguments.json:
            say(as_json({"file": str(path), "ok": False, "faults": _faults(errors), "notices": []}))
            return FAILED
        raise failure(errors, path, say) from None
    if arguments.json:
        say(as_json({"file": str(path), "ok": True, "faults": [], "notices": config.notices}))
        return OK
    say(f"{path}: ok: {_summary(config)}")
    for notice in config.notices:
        say(f"  note: {notice}")
    return OK


def schema(_: argparse.Namespace) -> int:
    from relay.config.schema import render

    say(render().rstrip("\n"))
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


def serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", action="store_true", help="text on stderr, also where it is no terminal"
    )

    parser.add_argument(
        "--no-watch", action="store_true", help="reload at SIGHUP only, not when the files change"
    )


def check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="faults and notices as JSON")


COMMANDS: Final = (
    Command(("serve",), "serve until stopped", serve, serve_options),
    Command(("check",), "say what is wrong with the configuration", check, check_options),
    Command(("schema",), "print the configuration's JSON Schema", schema),
)
