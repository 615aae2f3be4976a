"""`relay explain`: what a call of a key to a model would get, and why it would be refused."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any, Final

from relay.commands.terms import OK, Command, Failure, as_json, config_path, failure, note, say

Facts = dict[str, Any]


def explain(arguments: argparse.Namespace) -> int:
    from relay.config.file import ConfigErrors, load
    from relay.explain import NoSuchKey
    from relay.explain import explain as facts_of

    if arguments.model is None and arguments.body is None:
        raise Failure("say which model by --model, or by a --body that names one")
    path = config_path(arguments)
    try:
        config = load(path, os.environ)
    except ConfigErrors as errors:
        raise failure(errors, path, note) from None
    body = None if arguments.body is None else arguments.body.read_bytes()
    try:
        facts = facts_of(config, arguments.key, arguments.model, body, time())
    except NoSuchKey as error:
        raise Failure(f"{path}: {error}") from None
    if arguments.json:
        say(as_json(facts))
    else:
        for line in _text(facts):
            say(line)
    return OK


def _text(facts: Facts) -> Iterator[str]:
    yield from _verdict(facts)
    if key := facts.get("key"):
        yield f"key       {', '.join(_key(key))}"
    if needs := facts.get("needs"):
        yield f"needs     {', '.join(_needs(needs))}"
    limits = facts.get("limits")
    if limits is not None:
        lines = [_limit(limit) for limit in limits] or ["none"]
        yield from _under("limits", lines)
    if route := facts.get("route"):
        yield from _under("route", list(_route(route)))
    yield from _under("price", list(_prices(facts)))


def _verdict(facts: Facts) -> Iterator[str]:
    model = facts.get("model", "")
    if not facts["refused"]:
        yield f"{model}: admitted, as far as the files tell"
        return
    error = facts["error"]
    code = error["code"] or error["type"]
    yield f"{model or 'the call'}: refused with {error['status']} {code}: {error['message']}"
    if why := facts.get("why"):
        yield f"why       {why}"


def _key(key: Facts) -> Iterator[str]:
    yield key["id"]
    if key["group"]:
        yield f"group {key['group']}"
    yield f"models {' '.join(key['models']) or 'none'}"
    if key["expires"]:
        yield f"expires {key['expires']}"
    if key["rotating_until"]:
        yield f"its former key is good until {key['rotating_until']}"
    if key["allow_ips"]:
        yield f"only from {' '.join(key['allow_ips'])}"
    yield f"weight {key['weight']}"
    yield f"abort_billing {key['abort_billing']}"
    yield f"on_revoke {key['on_revoke']}"


def _needs(needs: Facts) -> Iterator[str]:
    prompt = needs["prompt_tokens"]
    yield (
        "no body given: the prompt is taken for empty"
        if prompt is None
        else (f"a prompt of at most {prompt:,} tokens")
    )
    yield f"an answer of at most {needs['output_tokens']:,}"
    if needs["usd"] is not None:
        yield f"at most US$ {needs['usd']:.9f}".rstrip("0").rstrip(".")


def _limit(limit: Facts) -> str:
    name = limit["limit"] if limit["model"] is None else f"{limit['limit']} of this model"
    used = "used unknown" if limit["used"] is None else f"used {limit['used']:,.6g}"
    only = ", counted only: it refuses nobody" if limit["counts_only"] else ""
    allowed, reserved = _number(limit["allowed"]), _number(limit["reserved"])
    return f"{name} {allowed} ({limit['of']}): {used}, reserves {reserved}{only}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _route(route: Facts) -> Iterator[str]:
    if route.get("static"):
        yield "a fixed text"
        return
    yield f"{route['strategy']}, at most {route['attempts']} attempts"
    for member in route["members"]:
        told = [f"tier {member['tier']}: {member['upstream']} as {member['model']}"]
        told.append(f"weight {member['weight']}")
        if member["max_concurrent"] is not None:
            told.append(f"max_concurrent {member['max_concurrent']}")
        told.append(member["note"] or "its state is a running relay's to tell")
        yield ", ".join(told)
    if route["fallback"]:
        yield f"then {', then '.join(route['fallback'])}"


def _prices(facts: Facts) -> Iterator[str]:
    """The model's, then those of members that take another."""
    if price := facts.get("price"):
        yield from _price(price)
    for member in facts.get("route", {}).get("members", ()):
        if price := member["price"]:
            for line in _price(price):
                yield f"at {member['upstream']} {line}"


def _price(price: Facts) -> Iterator[str]:
    yield f"now {_rates(price['now'])}"
    if price["changes"]:
        yield f"from {price['changes']} on {_rates(price['then'])}"


def _rates(rates: Facts) -> str:
    told = ", ".join(f"{name.replace('_', ' ')} {rate:g}" for name, rate in rates.items())
    return f"{told} (US$ per million tokens)"


def _under(heading: str, lines: list[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield f"{heading if not number else '':<9} {line}"


def _options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--key", required=True, metavar="ID", help="whose call it is")
    add("--model", metavar="NAME", help="the model it asks for")
    add("--body", type=Path, metavar="FILE", help="the JSON it sends")
    add("--json", action="store_true", help="for a program to read")


COMMANDS: Final = (Command(("explain",), "say what a call would get, and why", explain, _options),)
