"""What an admin should know of a configuration without faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from relay.config.file import load, loads
from relay.config.keyfiles import without_a_break
from relay.config.model import Config
from relay.config.notices import expiring
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
    f"keys: [{{id: a, hash: '{HASH}', limits: {{usd_per_day: 1}}}}]": (
        "models.m has no price: 'a', with a usd limit, is refused there."
    ),
    POOLS
    + "models: {m: {pool: [{upstream: up, price: {input: 1, output: 2}}, {upstream: up, model: n}]}}\n"
    f"keys: [{{id: b, hash: '{HASH}', limits: {{usd_per_day: 1}}}}]": (
        "models.m has no price: 'b', with a usd limit, is refused there."
    ),
    POOLS + "models:\n"
    "  m: {pool: [{upstream: up}], fallback: [n], price: {input: 1, output: 2}}\n"
    "  n: {pool: [{upstream: up}]}\n"
    "groups: {g: {limits: {usd_per_month: 1}}}\n"
    f"keys: [{{id: a, hash: '{HASH}', group: g, models: [m]}}]": (
        "models.m.fallback: n is passed over for keys with a usd limit."
    ),
    f"observability: {{log_content: [a]}}\nkeys: [{{id: a, hash: '{HASH}'}}]": (
        "observability.log_content: prompts and answers of 'a' are written to the log."
    ),
    "observability: {log_content: [nobody]}": "observability.log_content: there is no key 'nobody'.",
}


@pytest.mark.parametrize("text", NOTICES)
def test_what_will_not_serve_is_said(text: str) -> None:
    assert any(NOTICES[text] in notice for notice in notices(text))


DEMO = "upstreams: {d: {kind: demo}}\nmodels: {m: {pool: [{upstream: d}]}}\n"
HEARD = "observability.log_content: prompts and answers of {} are written to the log."
NOBODY = "observability.log_content: there is no key {}."


@pytest.mark.parametrize(
    ("text", "named", "says"),
    [
        (DEMO, "demo", HEARD.format("'demo'")),
        (DEMO + f"keys: [{{id: demo, hash: '{HASH}'}}]\n", "demo-key", HEARD.format("'demo-key'")),
        (DEMO + f"keys: [{{id: demo, hash: '{HASH}'}}]\n", "demo", HEARD.format("'demo'")),
        ("models: {m: {static: x}}\n", "demo", NOBODY.format("'demo'")),
        (DEMO + "keys: [{id: a}]\n", "a", NOBODY.format("'a'")),
        (
            DEMO + f"keys: [{{id: a-1, hash: '{HASH}'}}]\n",
            "'a-*'",
            NOBODY.format("'a-*'; ids are no patterns"),
        ),
    ],
)
def test_whose_contents_are_logged_is_said_of_just_those_whose_are(
    text: str, named: str, says: str
) -> None:
    said = notices(f"{text}observability: {{log_content: [{named}]}}\n")

    assert [notice for notice in said if "log_content" in notice] == [says]


def test_of_those_whose_contents_are_logged_each_is_named() -> None:
    ids = [f"k{n}" for n in range(5)]
    entries = ", ".join(f"{{id: {id}, hash: 'sha256:{n:064x}'}}" for n, id in enumerate(ids))

    said = notices(f"keys: [{entries}]\nobservability: {{log_content: [{', '.join(ids)}]}}\n")

    assert HEARD.format("'k0', 'k1', 'k2', 'k3', 'k4'") in said


def test_options_at_rest_are_not_named() -> None:
    said = notices("models: {m: {static: x}}\nkeys: [{id: a, limits: {usd_per_day: 5}}]\n")

    assert said == ["keys: 'a' is left out, without a key or a hash."]


def test_a_notice_of_many_places_names_the_first_and_counts_the_rest() -> None:
    entries = ", ".join(f"{{id: k{n}, hash: 'sha256:{n:064x}', models: [n*]}}" for n in range(5))

    said = notices(f"models: {{m: {{static: x}}}}\nkeys: [{entries}]\n")

    assert said == ["keys: no model fits 'n*' (of 'k0', 'k1', 'k2' and 2 more)."]


NOON = 1893499200.0
"""2030-01-01T12:00:00Z."""


def test_keys_that_expire_within_two_weeks_are_counted_and_the_first_three_named() -> None:
    entries = ", ".join(
        f"{{id: {id}, hash: 'sha256:{number:064x}', expires: {expires}}}"
        for number, (id, expires) in enumerate(
            [
                *[
                    ("d", "2030-01-15"),
                    ("b", "2030-01-03"),
                    ("a", "2030-01-02"),
                    ("c", "2030-01-05"),
                ],
                *[("over", "2030-01-01"), ("late", "2030-01-16"), ("e", "2030-01-15T12:00:00Z")],
            ]
        )
    )
    config = read(f"models: {{m: {{static: x}}}}\nkeys: [{entries}]\n")

    said = expiring(config, config.filed, NOON, without_a_break)
    earlier = expiring(config, config.filed, NOON - 30 * 86_400, without_a_break)

    assert said == (
        "keys: 'a', 'b', 'c' and 2 more expire within 14 days, the first at 2030-01-02."
    )
    assert earlier is None


def test_keys_of_files_that_expire_soon_are_named_too(tmp_path: Path) -> None:
    (tmp_path / "keys.jsonl").write_text(
        f'{{"id": "f", "hash": "{HASH}", "expires": "2030-01-02"}}'
    )
    path = tmp_path / "config.yaml"
    path.write_text("models: {m: {static: x}}\nkey_files: [keys.jsonl]\n")
    config = load(path, {})

    said = expiring(config, config.filed, NOON, without_a_break)

    assert said == "keys: 'f' expires within 14 days, the first at 2030-01-02."
