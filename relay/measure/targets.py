"""Who is measured: upstreams of the configuration, each with the model it is asked for and what that costs.

Rules that hold here:
- an upstream is measured as the relay would call it: its name for the model, its keys, authorities and patience;
- the demo answers from this very process and is no provider: only where it is named, or nobody else is there;
- nothing of a target shows a credential.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from relay.config.model import Config, ModelConfig, PoolEntry, PriceConfig
from relay.config.rules import nearest
from relay.config.upstreams import UpstreamConfig, UpstreamTimeouts
from relay.pricing import Price
from relay.upstream import address


@dataclass(frozen=True, slots=True)
class Target:
    """One place that is called. Times in seconds."""

    name: str
    base_url: str
    keys: tuple[str | None, ...] = field(repr=False)
    """They take turns; None alone: it needs none."""
    model: str
    """As this upstream calls it."""
    price: Price | None = None
    usage: str = "final"
    """Token counts to ask for, as `upstreams.*.usage`."""
    ca_file: Path | None = None
    connect: float = 3.0
    first_token: float = 30.0
    idle: float = 60.0
    total: float = 1800.0
    most: int | None = None
    """Calls at once that it takes."""
    demo: bool = False


class NotMeasurable(Exception):
    """What was asked for cannot be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command line asks for."""

    model: str | None = None
    """Of the configuration: all of its pool."""
    upstreams: tuple[str, ...] = ()
    """None: all of them."""
    upstream_model: str | None = None
    """Instead of what the configuration says that they call it."""


def targets_of(config: Config, choice: Choice) -> tuple[list[Target], list[tuple[str, str]]]:
    """Who is measured, and who is left out with the reason. Raises NotMeasurable."""
    for name in choice.upstreams:
        if name not in config.upstreams:
            raise NotMeasurable(
                f"there is no upstream '{name}'{nearest(name, [*config.upstreams])}"
            )
    found: list[Target] = []
    left: dict[str, str] = {}
    for upstream, asked, model, price in _members(config, choice):
        if choice.upstreams and upstream not in choice.upstreams:
            continue
        options = config.upstreams[upstream]
        if options.left_out:
            left[upstream] = "its api_keys are empty"
        elif asked is None:
            left[upstream] = "no model of the configuration uses it: say --upstream-model"
        else:
            found.append(_target(config, upstream, options, asked, model, price))
    if choice.upstreams:
        for name in choice.upstreams:
            if name not in left and all(one.name != name for one in found):
                left[name] = f"model '{choice.model}' does not use it"
    elif any(not one.demo for one in found):
        found = [one for one in found if not one.demo]
    return _told_apart(found), list(left.items())


def _members(
    config: Config, choice: Choice
) -> Iterator[tuple[str, str | None, ModelConfig | None, PriceConfig | None]]:
    """Upstreams, what each is asked for (None: nobody knows), the model it serves so, and what that takes there."""
    if choice.model is not None:
        model = config.models.get(choice.model)
        if model is None:
            near = nearest(choice.model, [*config.models])
            raise NotMeasurable(f"there is no model '{choice.model}'{near}")
        if not model.pool:
            raise NotMeasurable(f"model '{choice.model}' is a fixed text: no upstream answers it")
        seen = set()
        for entry in model.pool:
            named = entry.model or choice.model
            asked = choice.upstream_model or named
            if (entry.upstream, asked) not in seen:
                seen.add((entry.upstream, asked))
                yield (entry.upstream, asked, *_as_configured(model, entry, asked == named))
        return
    for name in config.upstreams:
        entries = (
            (entry, model, as_named)
            for as_named, model in config.models.items()
            for entry in model.pool
            if entry.upstream == name
        )
        first = next(entries, None)
        if first is None:
            yield name, choice.upstream_model, None, None
        else:
            entry, model, as_named = first
            named = entry.model or as_named
            asked = choice.upstream_model or named
            yield (name, asked, *_as_configured(model, entry, asked == named))


def _as_configured(
    model: ModelConfig, entry: PoolEntry, same: bool
) -> tuple[ModelConfig | None, PriceConfig | None]:
    """Neither the patience nor the price of a model says anything of another one."""
    return (model, model.price_at(entry)) if same else (None, None)


def _target(
    config: Config,
    name: str,
    options: UpstreamConfig,
    asked: str,
    model: ModelConfig | None,
    price: PriceConfig | None,
) -> Target:
    demo = options.kind == "demo"
    if demo:
        price = None
    elif price is None:
        price = config.prices.get(asked)
    first_token = None if model is None else model.first_token
    keys = tuple(key.get_secret_value() for key in options.api_keys)
    timeouts = options.timeouts
    return Target(
        name=name,
        base_url=options.base_url or "",
        keys=keys or (None,),
        model=asked,
        price=None if price is None else Price.of(price),
        usage=options.usage,
        ca_file=options.ca_file,
        connect=timeouts.connect,
        first_token=first_token or timeouts.first_token,
        idle=timeouts.idle,
        total=timeouts.total,
        most=config.most_at_once(name),
        demo=demo,
    )


def foreign(base_url: str, key: str | None, model: str, price: Price | None) -> Target:
    """A place that no configuration knows. Raises NotMeasurable for what is no base URL."""
    try:
        place = address.parse(base_url)
    except ValueError as error:
        raise NotMeasurable(str(error).replace("base_url", "--base-url", 1)) from None
    patience = UpstreamTimeouts()
    return Target(
        name=place.authority.decode("ascii"),
        base_url=base_url.rstrip("/"),
        keys=(key,),
        model=model,
        price=price,
        connect=patience.connect,
        first_token=patience.first_token,
        idle=patience.idle,
        total=patience.total,
    )


def _told_apart(targets: list[Target]) -> list[Target]:
    """An upstream that stands twice in a pool, for two models, is named with them."""
    names = [one.name for one in targets]
    return [
        replace(one, name=f"{one.name} {one.model}") if names.count(one.name) > 1 else one
        for one in targets
    ]
