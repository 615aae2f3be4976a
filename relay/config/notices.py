"""What the admin should know of a configuration though nothing in it is wrong.

Said at start and by `relay check`, one sentence each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from relay.config.keymodel import KeyConfig, Limits, demo_id
from relay.config.keytable import STEP, FiledLimits, KeyTable, Plan, Use
from relay.config.model import Config
from relay.config.types import SHORTEST_KEY
from relay.config.values import write_instant

SHOWN_PLACES: Final = 3
"""Of many places with the same notice, the first few are named."""

SOON: Final = timedelta(days=14)
"""Before its end a key is named: time enough to hand out another."""

SHOWN_PATTERNS: Final = 20
"""Patterns that fit no model, each with a notice of its own."""


def notices(config: Config, filed: KeyTable, wall: float, breathe: Callable[[], None]) -> list[str]:
    """`filed` is what the key files held, `wall` the Unix time in seconds."""
    keys = _Filed(filed, filed.uses(breathe))
    found = [sentence for tell in _TELLERS for sentence in tell(config, keys)]
    soon = expiring(config, filed, wall, breathe)
    return found if soon is None else [*found, soon]


def expiring(
    config: Config, filed: KeyTable, wall: float, breathe: Callable[[], None]
) -> str | None:
    """Which keys expire soon, if any do; those that have are not new to anybody."""
    now = datetime.fromtimestamp(wall, UTC)
    last = now + SOON
    found = [
        (key.expires, key.id)
        for key in config.keys
        if key.expires is not None and now < key.expires <= last and key.digest is not None
    ]
    for number, filed_key in enumerate(filed.expiring):
        if number % STEP == 0:
            breathe()
        expires = filed_key.expires
        if expires is not None and now < expires <= last:
            found.append((expires, filed_key.id))
    if not found:
        return None
    found.sort()
    names = _some(_quoted([id for _, id in found]))
    verb = "expires" if len(found) == 1 else "expire"
    first = write_instant(found[0][0])
    return f"keys: {names} {verb} within {SOON.days} days, the first at {first}."


class _Filed(NamedTuple):
    """The keys of key files."""

    table: KeyTable
    uses: list[Use]


class _Names:
    """Those that a notice is about: the first few by name, and how many there are."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def __str__(self) -> str:
        more = self._count - len(self._shown)
        return ", ".join(self._shown) + (f" and {more} more" if more > 0 else "")

    @property
    def verb(self) -> str:
        return "is" if self._count == 1 else "are"

    def add(self, names: Iterable[str], count: int) -> None:
        """`names` may be fewer than `count`, if they are more than are shown."""
        self._count += count
        self._shown += list(names)[: SHOWN_PLACES - len(self._shown)]


def _some(names: Sequence[str]) -> _Names:
    found = _Names()
    found.add(names, len(names))
    return found


def _quoted(ids: Iterable[str]) -> list[str]:
    return [f"'{id}'" for id in ids]


Holder = tuple[KeyConfig | Plan, Sequence[str], int]
"""What keys may, the ids of (the first of) them, and how many there are."""


def _holders(config: Config, filed: _Filed) -> Iterator[Holder]:
    """All keys that can be used; of those in files all with the same plan at once."""
    yield from ((key, [key.id], 1) for key in config.keys if key.digest is not None)
    yield from ((use.plan, use.ids, use.count) for use in filed.uses)


# --- what is left out, or cannot be used ----------------------------------------------------------


def _left_out(config: Config, filed: _Filed) -> Iterator[str]:
    for name, upstream in config.upstreams.items():
        if upstream.left_out:
            yield f"upstreams.{name} is left out: its api_keys are empty."
    empty = _some(
        _quoted([key.id for key in config.keys if key.digest is None] + filed.table.left_out)
    )
    if empty:
        yield f"keys: {empty} {empty.verb} left out, without a key or a hash."
    weak = [
        key.id
        for key in config.keys
        if key.key is not None and 0 < len(key.key.get_secret_value()) < SHORTEST_KEY
    ]
    short = _some(_quoted(weak + filed.table.weak))
    if short:
        yield f"keys: {short} {short.verb} shorter than {SHORTEST_KEY} characters, and can be guessed."
    if not config.models:
        yield "models: there are none, so every call is answered with 404."


def _answered_by_none_or_demo(config: Config, _: _Filed) -> Iterator[str]:
    for name, model in config.models.items():
        if not model.pool:
            continue
        kinds = _kinds(config, name)
        if not kinds:
            yield f"models.{name} cannot be served: all its upstreams are left out."
        elif kinds == {"demo"}:
            yield f"models.{name} is served by the demo: a canned answer, no model."


def _kinds(config: Config, name: str) -> set[str]:
    """Of the upstreams that may serve the model."""
    active = config.active_upstreams
    pool = config.models[name].pool
    return {active[entry.upstream].kind for entry in pool if entry.upstream in active}


def _differ_in_one_account(config: Config, _: _Filed) -> Iterator[str]:
    """Limits of upstreams that the provider counts as one."""
    accounts: dict[str, dict[str, int]] = {}
    for name, upstream in config.active_upstreams.items():
        if upstream.max_concurrent is not None:
            accounts.setdefault(upstream.account or name, {})[name] = upstream.max_concurrent
    for account, limits in accounts.items():
        if len(set(limits.values())) > 1:
            names = _some([f"upstreams.{name}" for name in limits])
            least = min(limits.values())
            yield f"{names}: of account '{account}' the least max_concurrent holds for all, {least}."


def _never_reached(config: Config, _: _Filed) -> Iterator[str]:
    for name, model in config.models.items():
        for index, other in enumerate(model.fallback[:-1]):
            if config.models[other].static is not None:
                rest = ", ".join(model.fallback[index + 1 :])
                yield f"models.{name}.fallback: {rest} is never reached, '{other}' always answers."
                break


def _match_nothing(config: Config, filed: _Filed) -> Iterator[str]:
    useless: dict[str, _Names] = {}
    matches: dict[str, bool] = {}
    for rights, ids, count in _holders(config, filed):
        for pattern in rights.models:
            if pattern not in matches:
                matches[pattern] = any(fnmatchcase(model, pattern) for model in config.models)
            if not matches[pattern]:
                useless.setdefault(pattern, _Names()).add(_quoted(ids), count)
    shown = list(useless.items())[:SHOWN_PATTERNS]
    for pattern, names in shown:
        yield f"keys: no model fits '{pattern}' (of {names})."
    if len(useless) > len(shown):
        yield f"keys: no model fits {len(useless) - len(shown)} more patterns."


def _named_like_a_label(config: Config, filed: _Filed) -> Iterator[str]:
    names = [f"upstreams.{name}" for name in config.upstreams if name in ("none", "static")]
    names += [f"models.{name}" for name in config.models if name == "other"]
    names += [f"keys[{key.id}]" for key in config.keys if key.id == "other"]
    if filed.table.of_id("other") is not None:
        names.append("keys[other]")
    if names:
        yield f"{_some(names)}: metrics use this name for something else, too."


def _logs_content(config: Config, filed: _Filed) -> Iterator[str]:
    """Names each key that is heard, however many: this is no place for `and 3 more`."""
    named = dict.fromkeys(config.observability.log_content)
    known = {key.id for key in config.keys if key.digest is not None}

    def is_known(id: str) -> bool:
        return id in known or filed.table.of_id(id) is not None

    demo = None
    if any(_kinds(config, name) == {"demo"} for name in config.models):
        demo = demo_id(is_known)
    heard = [id for id in named if is_known(id) or id == demo]
    unknown = [id for id in named if id not in heard]
    if heard:
        whose = ", ".join(_quoted(heard))
        yield f"observability.log_content: prompts and answers of {whose} are written to the log."
    if unknown:
        hint = "; ids are no patterns" if any("*" in id for id in unknown) else ""
        yield f"observability.log_content: there is no key {_some(_quoted(unknown))}{hint}."


def _unpriced(config: Config, filed: _Filed) -> Iterator[str]:
    """Models of which nobody says what they cost, for keys whose money is limited."""
    unpriced = {name for name in config.models if _costs_unsaid(config, name)}
    if not unpriced:
        return
    holders = [
        (holder, limits)
        for holder in _holders(config, filed)
        if any(map(_names_money, limits := _limits_over(config, holder[0])))
    ]
    for name, model in config.models.items():
        keys = _Names()
        for (rights, ids, count), limits in holders:
            if any(_limits_money(each, name) for each in limits) and _may_use(rights, name):
                keys.add(_quoted(ids), count)
        passed = _some([other for other in model.fallback if other in unpriced])
        if keys and name in unpriced:
            yield f"models.{name} has no price: {keys}, with a usd limit, {keys.verb} refused there."
        elif keys and passed:
            yield f"models.{name}.fallback: {passed} {passed.verb} passed over for keys with a usd limit."


def _costs_unsaid(config: Config, name: str) -> bool:
    """Whether an upstream serves the model, not the demo, and what that takes is not said."""
    model, active = config.models[name], config.active_upstreams
    return any(
        active[entry.upstream].kind != "demo" and model.price_at(entry) is None
        for entry in model.pool
        if entry.upstream in active
    )


def _limits_over(config: Config, rights: KeyConfig | Plan) -> list[Limits | FiledLimits]:
    """A key's own limits and its group's."""
    group = [] if rights.group is None else [config.groups[rights.group].limits]
    return [rights.limits, *group]


def _names_money(limits: Limits | FiledLimits) -> bool:
    """Whether any limit among them is in dollars."""
    every = (limits, *limits.models.values())
    return any(each.usd_per_day is not None or each.usd_per_month is not None for each in every)


def _limits_money(limits: Limits | FiledLimits, model: str) -> bool:
    """Whether they can refuse a call to this model for what it costs."""
    own = limits.models.get(model)
    # Limits that only count make those of single models only count, too.
    return not limits.shadow and any(
        not each.shadow and (each.usd_per_day is not None or each.usd_per_month is not None)
        for each in (limits, own)
        if each is not None
    )


def _may_use(rights: KeyConfig | Plan, model: str) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in rights.models)


_TELLERS: Final = (
    _left_out,
    _answered_by_none_or_demo,
    _differ_in_one_account,
    _never_reached,
    _match_nothing,
    _named_like_a_label,
    _logs_content,
    _unpriced,
)
