"""The part of a reload that takes long, made beside the event loop: reading, comparing, and letting the old one go.

All of it runs in another thread, which alone would not help: whoever computes in one thread keeps the interpreter from
the others. So the work is cut into pieces of a fraction of a millisecond, with a rest after each (`Pace`). What touches
the live parts of the relay is not here; it is short, and the loop's own (`app`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from threading import Event
from typing import Final, NamedTuple

from relay.admission.principals import Principals
from relay.admission.purse import Purse
from relay.config import file
from relay.config.keytable import KeyTable
from relay.config.model import Config
from relay.config.types import Section
from relay.observe import logs
from relay.snapshot import compile_keys
from relay.upstream import tls

log = logs.get("app")

REST: Final = 0.0005
"""Seconds after each piece of work: about twice as long as the piece."""
STEP: Final = 1024
"""Entries that are compared, or let go, in one piece."""
SHOWN: Final = 20
"""Names of changed things in the log, of each kind; of 100,000 new keys nobody would read more."""

_PLAIN: Final = ("server", "admin", "state", "on_store_failure", "observability")
"""Sections of options that are known by their own names."""
_RESTART: Final = frozenset({"listen", "workers", "path"})
"""What a reload cannot change: told in words."""

Breathe = Callable[[], None]


class Pace:
    """Rests between pieces of work, so that the event loop has the interpreter nearly to itself. Any thread."""

    def __init__(self) -> None:
        self._hurry = Event()

    def __call__(self) -> None:
        self._hurry.wait(REST)

    def hurry(self) -> None:
        """No more rests: the process is about to end."""
        self._hurry.set()


class Prepared(NamedTuple):
    """A configuration that was found good."""

    config: Config
    principals: Principals
    difference: dict[str, list[str]]
    """What it changes, by name."""


def tell(before: list[str], made: Prepared) -> None:
    """The new configuration is in force: what it changes, and its notices that were not among those `before`."""
    new = made.config
    for notice in new.notices:
        if notice not in before:
            log.warning("notice", notice=notice)
    log.info("reloaded", digest=new.digest[:12], notices=list(new.notices), **made.difference)


def always() -> bool:
    """The files may change while they are read: somebody vouches for them."""
    return True


def prepare(
    old: Config,
    env: Mapping[str, str],
    breathe: Breathe,
    source: bytes | None = None,
    still: Callable[[], bool] = always,
) -> Prepared | list[str]:
    """Reads the configuration anew, from its file or as somebody has read it; its faults, if it has any.

    `still` is asked afterwards whether the files are those that were to be read.
    """
    # Not one exception leaves this thread: its frames would hold keys by the thousand, to be freed by the event loop.
    try:
        new = file.loads(file.read(old.path) if source is None else source, env, old.path, breathe)
        if not still():
            new.filed.retire(breathe)
            return [str(file.Fault(str(old.path), 0, 0, "changed while it was read"))]
        if old.models and not new.models:
            # A file that an editor has emptied before it writes it, more likely than an end of all service.
            new.filed.retire(breathe)
            return [str(file.Fault(str(old.path), 0, 0, "has no models left"))]
        for upstream in new.active_upstreams.values():
            if upstream.base_url is not None and upstream.base_url.startswith("https:"):
                # Reading authorities takes tens of milliseconds; they are remembered.
                tls.prepare(upstream.ca_file)
        return Prepared(new, compile_keys(new), difference(old, new, breathe))
    except file.ConfigErrors as error:
        return [str(fault) for fault in error.faults]
    except (OSError, ValueError) as error:
        return [f"{old.path.name}: {type(error).__name__}"]


def let_go(
    principals: Principals, filed: KeyTable, purses: dict[str, Purse], breathe: Breathe
) -> None:
    """The end of what a configuration held of its keys, once nobody looks anything up there."""
    while purses:
        for _ in range(min(STEP, len(purses))):
            purses.popitem()
        breathe()
    principals.retire(breathe)
    filed.retire(breathe)


def difference(old: Config, new: Config, breathe: Breathe) -> dict[str, list[str]]:
    """What a reload changes, by name."""
    keys, new_keys = ({key.id: key for key in config.keys} for config in (old, new))
    found = {
        "upstreams": _changes(old.upstreams, new.upstreams),
        "models": _changes(old.models, new.models),
        "groups": _changes(old.groups, new.groups),
        "prices": _changes(old.prices, new.prices),
        "keys": _changes(keys, new_keys),
        "key_files": _filed_changes(old.filed, new.filed, breathe),
    }
    for section in _PLAIN:
        found[section] = _options(getattr(old, section), getattr(new, section))
    if (old.server.listen, old.admin.listen) != (new.server.listen, new.admin.listen):
        found["server"].append("a changed listen address needs a restart")
    if old.server.workers != new.server.workers:
        found["server"].append("another number of workers needs a restart")
    if old.quota_store != new.quota_store:
        found["quota_store"] = ["another store needs a restart"]
    if old.state.path != new.state.path:
        found["state"].append("another path needs a restart")
    return {section: changes for section, changes in found.items() if changes}


def _options(before: Section, after: Section) -> list[str]:
    names = [name for name in type(before).model_fields if name not in _RESTART]
    return [f"~{name}" for name in names if getattr(before, name) != getattr(after, name)]


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    return [
        *_some("-", [name for name in before if name not in after]),
        *_some("+", [name for name in after if name not in before]),
        *_some("~", [name for name in after if name in before and before[name] != after[name]]),
    ]


def _filed_changes(old: KeyTable, new: KeyTable, breathe: Breathe) -> list[str]:
    gone, come, changed = [], [], []
    for number, key in enumerate(old.keys):
        if number % STEP == 0:
            breathe()
        other = new.of_id(key.id)
        if other is None:
            gone.append(key.id)
        elif other != key:
            changed.append(key.id)
    for number, key in enumerate(new.keys):
        if number % STEP == 0:
            breathe()
        if old.of_id(key.id) is None:
            come.append(key.id)
    return [*_some("-", gone), *_some("+", come), *_some("~", changed)]


def _some(sign: str, names: list[str]) -> list[str]:
    more = len(names) - SHOWN
    told = [f"{sign}{name}" for name in islice(names, SHOWN)]
    return [*told, f"{sign} {more} more"] if more > 0 else told
