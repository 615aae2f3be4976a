"""`relay top`: the status page for a terminal."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Final

from relay.commands.terms import OK, Command, Failure, config_path, note
from relay.commands.times import seconds

if TYPE_CHECKING:
    from relay.config.model import Config

HERE: Final = "http://127.0.0.1:8081"
INTERVAL: Final = 1.0
SHORTEST: Final = 0.1


def top(arguments: argparse.Namespace) -> int:
    import asyncio

    from relay.commands.screen import Screen
    from relay.commands.watching import Away, Source, Watching, once, stream

    source = Source(*_place(arguments))
    if arguments.once:
        try:
            asyncio.run(once(source, arguments.json))
        except Away as error:
            raise Failure(f"{source.url}: {error}") from None
        return OK
    if arguments.json:
        asyncio.run(stream(source, arguments.interval))
        return OK
    if not sys.stdout.isatty():
        raise Failure("stdout is no terminal: use --once or --json")

    async def watch() -> int:
        return await Watching(source, Screen(), arguments.interval).run()

    return asyncio.run(watch())


def _place(arguments: argparse.Namespace) -> tuple[str, str | None]:
    """The address and the token: as they were given, else as the configuration has them."""
    token = None
    if arguments.token_env is not None:
        token = os.environ.get(arguments.token_env)
        if not token:
            raise Failure(f"the variable {arguments.token_env} of --token-env is empty")
    if arguments.url is not None:
        return arguments.url.rstrip("/"), token
    config = _config(arguments)
    if config is None:
        return HERE, token
    listen = config.admin.listen
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listen.port}", token or config.admin.secret


def _config(arguments: argparse.Namespace) -> Config | None:
    """None where there is none, or one with faults, which is no reason not to look."""
    from relay.config.file import ConfigErrors, load

    path = config_path(arguments)
    if not path.exists() and getattr(arguments, "config", None) is None:
        return None
    try:
        return load(path, os.environ)
    except ConfigErrors as errors:
        if not path.exists():
            raise Failure(str(errors.faults[0])) from None
        note(f"{path} has faults (relay check names them): looking at {HERE}")
        return None


def _interval(text: str) -> float:
    found = seconds(text)
    if found < SHORTEST:
        raise argparse.ArgumentTypeError(f"'{text}' is too often: {SHORTEST:g} s at least")
    return found


def _options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", metavar="URL", help=f"the admin port (default: as configured, else {HERE})")
    add("--token-env", metavar="VAR", help="the variable that holds the admin token")
    add("--interval", type=_interval, default=INTERVAL, metavar="S", help="between two looks (1)")
    add("--once", action="store_true", help="one picture as text, and no more")
    add("--json", action="store_true", help="status.json itself, a line for each look")


COMMANDS: Final = (Command(("top",), "watch a running relay; q quits", top, _options),)
