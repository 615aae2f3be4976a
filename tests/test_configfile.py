"""Reading the file: places of faults, variables, secrets, and the traps of YAML."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.file import ConfigErrors, load, loads
from relay.config.model import Config

KEY = "sk-0123456789-abcdef"


def read(text: str, env: Mapping[str, str] | None = None, path: str = "config.yaml") -> Config:
    return loads(dedent(text).encode(), env or {}, Path(path))


def faults(text: str, env: Mapping[str, str] | None = None, path: str = "config.yaml") -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read(text, env, path)
    return [str(fault) for fault in caught.value.faults]


# --- places ---------------------------------------------------------------------------------------


def test_every_fault_is_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
        server:
          listen: 8080
          max_bdy: 1MiB
        upstreams:
          a:
            base_url: https://a.example/v1
            max_concurrent: 1.0
            max_concurrent: 2
        models:
          m:
            pool: [{upstream: aa}]
            retry: {attempts: "${TRIES}"}
        keys:
          - {id: x, key: "${NO_KEY}", limits: {rpm: true}}
        """

    told = faults(text, {"TRIES": "many"})

    assert told == [
        "config.yaml:2:11: server.listen: must be an address and a port, "
        "such as 0.0.0.0:8080 or [::1]:8080, not 8080",
        "config.yaml:3:3: server.max_bdy: unknown option 'max_bdy', did you mean 'max_body'?",
        "config.yaml:7:21: upstreams.a.max_concurrent: must be a whole number, not 1.0",
        "config.yaml:8:5: upstreams.a.max_concurrent: 'max_concurrent' is given twice, "
        "first in line 7",
        "config.yaml:11:23: models.m.pool[0].upstream: there is no upstream 'aa', "
        "did you mean 'a'?",
        "config.yaml:12:23: models.m.retry.attempts: must be a whole number, "
        "not the value of ${TRIES}",
        "config.yaml:14:18: keys[0].key: the variable NO_KEY is not set "
        "(${NO_KEY:-…} gives a default)",
        "config.yaml:14:45: keys[0].limits.rpm: must be a whole number, not true",
    ]


def test_a_missing_option_is_told_where_it_would_stand() -> None:
    told = faults("keys:\n  - models: [a]\n")

    assert told == ["config.yaml:2:5: keys[0].id: is required"]


def test_a_name_that_belongs_elsewhere_is_sent_there() -> None:
    told = faults("keys:\n  - {id: a, rpm: 5}\n")

    assert told == [
        "config.yaml:2:13: keys[0].rpm: unknown option 'rpm', it belongs under 'limits'"
    ]


def test_a_name_like_nothing_is_answered_with_all_there_are() -> None:
    told = faults("on_store_failure: {xyzzy: open}\n")

    assert told[0].endswith("unknown option 'xyzzy' (there are: rates, budgets)")


def test_names_with_dots_are_quoted_in_paths() -> None:
    told = faults("models: {gpt-4.1: {}}\n")

    assert told == [
        'config.yaml:1:19: models."gpt-4.1": needs a pool of upstreams, or a static text'
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1\nb: 2\n", "2:2: is not YAML: did not find expected ',' or ']'"),
        ("server:\n\tlisten: x\n", "(indent with spaces, not tabs)"),
        ("a: {b: ${X}}\n", '(inside {} and [] a variable needs quotes: "${NAME}")'),
        ("a: *nobody\n", "1:4: is not YAML: found undefined alias"),
        ("---\na: 1\n---\nb: 1\n", "3:1: is not YAML: but found another document"),
        ("a: 1\nb: \0\n", "2:1: is not YAML: control characters are not allowed"),
        ("[server]\n", "1:1: must be a mapping of options"),
        ("just text\n", "1:1: must be a mapping of options"),
        ("? [a]\n: 1\n", "1:3: must be a name, not a list or a mapping"),
        ("models: {'': {static: x}}\n", 'models."": must be a name without spaces'),
        ("upstreams: [a]\n", "1:12: upstreams: must be a mapping of names, not a list"),
        ("server: 3\n", "1:9: server: must be a mapping of options, not a single value"),
    ],
)
def test_what_is_no_configuration_is_told_with_its_place(text: str, told: str) -> None:
    said = faults(text)

    assert any(told in fault for fault in said), said


def test_a_file_that_is_not_text_or_not_there_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"models:\n  a: {static: \xe4}\n")

    for name, words in (
        ("latin.yaml", "latin.yaml:2:1: is not UTF-8 text"),
        ("nowhere.yaml", "nowhere.yaml: cannot be read: No such file or directory"),
        (".", "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigErrors) as caught:
            load(tmp_path / name, {})
        assert str(caught.value).endswith(words)


# --- what YAML must not do ------------------------------------------------------------------------


def test_words_are_words_and_not_what_old_yaml_took_them_for() -> None:
    made = read("""\
        models: {"on": {static: no}, "12:30": {static: 12:30:45}}
        observability: {access_log: off}
        """)

    assert [model.static for model in made.models.values()] == ["no", "12:30:45"]
    assert made.observability.access_log == "off"


@pytest.mark.parametrize(
    "text",
    [
        "models: !!python/object/apply:os.system [touch hacked]\n",
        "models: {m: {static: !!python/name:os.system x}}\n",
        "models: !mine {}\n",
        "models: {m: {static: !!binary aGk=}}\n",
        "!!python/object:os.system {}\n",
    ],
)
def test_tags_make_nothing_and_are_refused(text: str, tmp_path: Path) -> None:
    said = faults(text, path=str(tmp_path / "config.yaml"))

    assert any("tags are not used here" in fault for fault in said), said
    assert not list(tmp_path.iterdir())


def test_an_alias_repeats_a_value() -> None:
    made = read("""\
        models: {m: {static: x}}
        groups: {a: {limits: &usual {rpm: 5}}, b: {limits: *usual}}
        """)

    assert made.groups["a"] == made.groups["b"]
    assert made.groups["b"].limits.rpm == 5


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    "text", [BOMB, "a: &a [*a]\n", "a: &a [*a, *a]\n", "a: &a {b: *a, c: *a}\n"]
)
def test_aliases_cannot_make_a_small_file_mean_a_huge_one(text: str) -> None:
    begun = process_time()

    said = faults(text)

    assert process_time() - begun < 1
    assert said[-1].endswith(("repeated by aliases too often", "nested too deep"))


def test_deep_nesting_is_a_fault() -> None:
    assert faults("a: " + "[" * 900 + "]" * 900)[0].endswith("a: is nested too deep")


def test_a_thousand_keys_load_in_well_under_a_second() -> None:
    entries = "".join(
        f"  - id: k{n}\n    hash: sha256:{n:064x}\n    models: [m]\n"
        f'    limits: {{rpm: "${{RPM:-9}}", tpm: 1000}}\n    expires: 2030-01-01\n'
        for n in range(1000)
    )
    begun = process_time()

    made = loads(f"models: {{m: {{static: x}}}}\nkeys:\n{entries}".encode(), {})

    assert process_time() - begun < 0.7
    assert sum(key.digest is not None for key in made.keys) == 1000


# --- variables and secrets ------------------------------------------------------------------------


def limits_and_texts(env: Mapping[str, str]) -> tuple[object, ...]:
    made = read(
        """\
        upstreams:
          a:
            base_url: ${SCHEME:-https}://${HOST:-a.example}/v1
            account: ${ACCOUNT:-none}
            max_concurrent: ${MOST:-}
        models: {m: {static: x, heartbeat: {before_commit: "${EARLY:-false}"}}}
        keys: [{id: k, limits: {rpm: "${RPM:-1000}", usd_per_day: "${USD:-0.5}"}}]
        """,
        env,
    )
    upstream, limits = made.upstreams["a"], made.keys[0].limits
    early = made.models["m"].heartbeat.before_commit
    return (
        *(upstream.base_url, upstream.account, upstream.max_concurrent),
        *(early, limits.rpm, limits.usd_per_day),
    )


def test_variables_have_defaults_and_are_read_by_the_type_of_their_option() -> None:
    assert limits_and_texts({}) == ("https://a.example/v1", "none", None, False, 1000, 0.5)


def test_variables_replace_defaults_and_an_empty_one_counts_as_unset() -> None:
    env = {
        "HOST": "b.example",
        "ACCOUNT": "42",
        "MOST": "7",
        "EARLY": "true",
        "RPM": "",
        "USD": "3",
    }

    assert limits_and_texts(env) == ("https://b.example/v1", "42", 7, True, 1000, 3)


def test_what_a_variable_holds_cannot_become_yaml_or_another_variable() -> None:
    evil = "x}, b: {static: ${OTHER}\n  c: {static: !!python/name:os.system }"

    made = read("models: {m: {static: '${TEXT}'}}\n", {"TEXT": evil, "OTHER": "secret"})

    assert [*made.models] == ["m"]
    assert made.models["m"].static == evil


def test_names_and_comments_are_not_looked_at_for_variables() -> None:
    made = read("# ${NOWHERE}\nmodels: {'a${X}b': {static: x}}\n", {"X": "1"})

    assert [*made.models] == ["a${X}b"]


def test_two_dollars_write_one() -> None:
    made = read("models: {m: {static: '$${HOME} costs $5 and $$5'}}\n", {"HOME": "/x"})

    assert made.models["m"].static == "${HOME} costs $5 and $$5"


@pytest.mark.parametrize("text", ["${a-b}", "${}", "${A:-${B}}", "x${", "${1A}", "${A:?no}"])
def test_what_looks_like_a_variable_and_is_none_is_a_fault(text: str) -> None:
    told = faults(f"models: {{m: {{static: '{text}'}}}}\n", {"A": "1", "B": "2"})

    assert len(told) == 1
    assert "write ${NAME} or ${NAME:-default}" in told[0]


def test_each_unset_variable_is_told_once_and_hides_no_other_fault() -> None:
    told = faults("keys:\n  - {id: '${A}', key: '${B}-${C}', group: nobody}\n")

    assert [told_of.partition(" the ")[2].split(" is")[0] for told_of in told] == [
        "variable A",
        "variable B",
        "variable C",
        "",
    ]
    assert "there is no group 'nobody'" in told[-1]


def test_a_secret_may_stand_in_a_file_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "key").write_text(f"{KEY}\n")
    text = "keys: [{id: a, key: 'file:run/key'}, {id: b, key: 'file:${WHERE}'}]\n"

    told = faults(text, {"WHERE": str(tmp_path / "run" / "key")}, str(tmp_path / "config.yaml"))
    made = read(text.split(", {")[0] + "]", {}, str(tmp_path / "config.yaml"))

    assert told[0].endswith("keys[1].key: is the same key as that of keys[0]")
    assert made.keys[0].digest == hashlib.sha256(KEY.encode()).digest()


def test_an_unreadable_secret_is_told_by_the_name_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    text = "keys: [{id: a, key: 'file:none'}]\nadmin: {token: 'file:binary'}\n"

    told = faults(text, path=str(tmp_path / "config.yaml"))

    assert told[0].endswith("cannot read the secret from none: No such file or directory")
    assert told[1].endswith("cannot read the secret from binary: it is not text")


def test_no_message_and_no_text_form_of_the_configuration_shows_a_secret() -> None:
    secret = "canary-0123456789"
    text = """\
        admin: {token: "${S} x", listen: "${S}"}
        quota_store: redis/${S}
        upstreams: {a: {base_url: 'https://u:${S}@h/v1', api_keys: "${S}", max_concurrent: "${S}"}}
        keys:
          - {id: a, key: canary-0123456789, hash: canary-0123456789}
          - {id: b, key: [canary-0123456789], hash: "${S}"}
          - {id: "${S} ${S}", key: canary-0123456789 with spaces}
        """

    told = faults(text, {"S": secret})
    made = read(
        "quota_store: redis://:canary-0123456789@h\nkeys: [{id: a, key: '${S}'}]\n", {"S": secret}
    )

    assert len(told) >= 9
    assert "canary" not in "".join(told)
    assert "canary" not in repr(made)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_a_configuration_or_a_list_of_faults(text: str) -> None:
    try:
        found: object = loads(text.encode(), {})
    except ConfigErrors as errors:
        found = errors.faults

    assert found


def test_the_reading_knows_its_file() -> None:
    made = read("models: {}\n", path="some/where.yaml")

    assert made.path == Path("some/where.yaml")
    assert made.digest == hashlib.sha256(b"models: {}\n").hexdigest()
    assert made.state.path == Path("some/state")
