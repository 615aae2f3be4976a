"""What an admin should know of a configuration without faults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import dedent

import pytest

from relay.config.file import loads
from relay.config.model import Config
from relay.config.notices import PENDING
from relay.config.types import Section

HASH = "sha256:" + "0" * 64
POOLS = "upstreams: {up: {base_url: 'http://x'}}\n"


def read(text: str) -> Config:
    return loads(dedent(text).encode(), {})


def sections(base: type[Section] = Section) -> Iterator[type[Section]]:
    for section in base.__subclasses__():
        yield section
        yield from sections(section)


def notices(text: str) -> list[str]:
    return [one for one in read("server: {workers: 1}\n" + text).notices]


def test_an_upstream_is_left_out_only_if_it_names_keys_and_none_is_set() -> None:
    config = read(
        """\
        upstreams:
          local: {base_url: 'http://127.0.0.1:8000/v1'}
          keyless: {base_url: 'http://x', api_keys: []}
          some: {base_url: 'http://x', api_keys: ['${A:-}', key-of-b]}
          unset: {base_url: 'http://x', api_keys: ['${A:-}', '${B:-}']}
        """
    )

    assert [*config.active_upstreams] == ["local", "keyless", "some"]
    assert len(config.upstreams["some"].api_keys) == 1
    assert any("upstreams.unset is left out" in notice for notice in config.notices)


NOTICES = {
    "": "models: there are none",
    "models: {m: {static: x}}\nkeys: [{id: a}]": "keys: 'a' is left out",
    "upstreams: {u: {base_url: 'http://x', api_keys: ['']}}\nmodels: {m: {pool: [{upstream: u}]}}": (
        "models.m cannot be served"
    ),
    "models: {m: {static: x, fallback: [a, b]}, a: {static: x}, b: {static: x}}": (
        "models.m.fallback: b is never reached, 'a' always answers."
    ),
    f"models: {{m: {{static: x}}}}\nkeys: [{{id: a, hash: '{HASH}', models: [n*]}}]": (
        "no model fits 'n*' (of 'a')"
    ),
    "upstreams:\n"
    "  a: {base_url: 'http://x/a', account: one, max_concurrent: 9}\n"
    "  b: {base_url: 'http://x/b', account: one, max_concurrent: 4}\n"
    "  c: {base_url: 'http://x/c', account: one}\n": (
        "upstreams.a, upstreams.b: of account 'one' the least max_concurrent holds for all, 4."
    ),
    "keys: [{id: a, key: sk-fifteen-sign}]": "'a' is shorter than 16 characters",
    POOLS + "models: {m: {pool: [{upstream: up}]}}\n"
    f"keys: [{{id: a, hash: '{HASH}', limits: {{usd_per_day: 1}}}}]": "models.m: without a price",
}


@pytest.mark.parametrize("text", NOTICES)
def test_what_will_not_serve_is_said(text: str) -> None:
    assert any(NOTICES[text] in notice for notice in notices(text))


PENDING_OPTIONS = {
    "state: {path: /var/lib/relay}": "state.path",
    f"keys: [{{id: a, hash: '{HASH}', on_revoke: cut}}]": "keys[a].on_revoke",
    f"keys: [{{id: a, hash: '{HASH}', limits: {{tokens_per_day: 5}}}}]": "keys[a].limits.tokens_per_day",
    "groups: {g: {limits: {usd_per_month: 5}}}": "groups.g.limits.usd_per_month",
    "prices: {gpt: {input: 1, output: 2}}": "prices",
    "observability: {log_content: true}": "observability.log_content",
}


@pytest.mark.parametrize("text", PENDING_OPTIONS)
def test_an_option_that_is_not_in_effect_yet_is_named(text: str) -> None:
    assert any(notice.startswith(PENDING_OPTIONS[text] + ":") for notice in read(text).notices)


def test_every_pending_option_is_tried_above_and_exists() -> None:
    tried = {
        re.sub(r"\[a\]|\b[umg]\b", "*", path.replace("[a]", ".*"))
        for path in PENDING_OPTIONS.values()
    }

    for row in PENDING:
        assert set(row.paths) & tried, row.paths
    names = {path.rpartition(".")[2] for row in PENDING for path in row.paths}
    assert names <= {name for section in sections() for name in section.model_fields}


def test_options_at_rest_are_not_named() -> None:
    said = notices("models: {m: {static: x}}\nkeys: [{id: a, limits: {usd_per_day: 5}}]\n")

    assert said == ["keys: 'a' is left out, without a key or a hash."]


def test_a_notice_of_many_places_names_the_first_and_counts_the_rest() -> None:
    entries = ", ".join(
        f"{{id: k{n}, hash: 'sha256:{n:064x}', limits: {{usd_per_day: 1}}}}" for n in range(5)
    )

    said = notices(f"models: {{m: {{static: x}}}}\nkeys: [{entries}]\n")

    assert len(said) == 1
    assert said[0].startswith("keys[k0].limits.usd_per_day, keys[k1].limits.usd_per_day, ")
    assert " and 2 more: budgets are counted in memory" in said[0]
