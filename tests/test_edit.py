"""Entries of `keys` added, changed and taken out: the lines that must change do, and no other."""

from __future__ import annotations

from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.edit import (
    EditRefused,
    entries_of,
    veiled_lines,
    with_keys,
    with_options,
    without_key,
    written,
)

PATH = Path("config.yaml")
ENTRY = {"id": "new", "hash": f"sha256:{'ab' * 32}", "models": ["a-*", "b"], "limits": {"rpm": 5}}
NEW = f"sha256:{'cd' * 32}"
OLD = f"sha256:{'ab' * 32}"
FORMER = [{"hash": OLD, "until": "2030-01-01"}]


def ids(source: bytes) -> list[Any]:
    return [entry.get("id") for entry in entries_of(written(source, PATH))]


def changed(before: str, after: bytes) -> list[str]:
    """The lines that went and came."""
    lines = unified_diff(before.splitlines(), after.decode().splitlines(), lineterm="", n=0)
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


# --- adding a key ---------------------------------------------------------------------------------

BEFORE = {
    "two spaces, a comment behind, more after": (
        "keys:\n  - id: a   # the first\n    limits:\n      rpm: 5   # slow\n"
        "\n  # - id: off\n\n# Other things.\nserver: {workers: 1}\n"
    ),
    "no indentation, flow style inside": "keys:\n- {id: a}\n- {id: b,\n   limits: {rpm: 1}}\n",
    "four spaces": "server:\n    workers: 1\nkeys:\n    - id: a\n      hash: x\n",
    "no end of line at the end": "keys:\n  - id: a",
    "line ends of windows": "# on top\r\nkeys:\r\n  - id: a\r\nserver: {}\r\n",
    "no keys yet": "server: {}   # the server\n",
    "an empty list": "keys: []   # nobody\nserver: {}\n",
    "nothing under keys": "keys:   # nobody\nserver: {}\n",
    "a null under keys": "keys: ~\n",
    "keys last and empty": "server: {}\nkeys:",
    "an empty file": "",
    "only comments": "# nothing\n",
    "variables, unset": "keys:\n  - id: a\n    key: ${NOWHERE}\nmodels: {m: {static: '${X:-y}'}}\n",
    "a block text at the end": "keys:\n  - id: a\n    key: |\n      text\n\n# end\nserver: {}\n",
    "a byte order mark": "\ufeffkeys:\n  - id: a\n",
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_adding_a_key_adds_lines_and_changes_no_other(before: str) -> None:
    source = before.encode()

    after = with_keys(source, PATH, [ENTRY])

    assert ids(after) == [*ids(source), "new"]
    lines = after.decode().splitlines()
    for line in before.splitlines():
        kept = line if line in lines else line.replace(" []", "").replace(" ~", "")
        lines.remove(kept)
    assert not {line.strip().split(" ")[0] for line in lines} - {
        *("-", "hash:", "models:", "limits:", "keys:", "")
    }


@pytest.mark.parametrize(
    "before",
    [
        "keys: [{id: a}]\n",
        "{keys: [], server: {}}\n",
        "other: &a\n  - id: a\nkeys: *a\n",
        "keys: {id: a}\n",
        "server: {}\n...\n",
    ],
)
def test_a_file_that_cannot_be_added_to_safely_is_refused(before: str) -> None:
    with pytest.raises(EditRefused, match="paste"):
        with_keys(before.encode(), PATH, [ENTRY])


# --- taking one out -------------------------------------------------------------------------------

THREE = """\
# The keys.
keys:
  # the first
  - id: a   # of the shop
    hash: sha256:00

  - id: b
    limits:
      rpm: 5   # slow
    # its last word

  # of the third
  - {id: c,
     hash: x}
server: {workers: 1}
"""


def test_an_entry_goes_with_its_lines_and_the_comments_inside_it() -> None:
    after = without_key(THREE.encode(), PATH, 1)

    assert ids(after) == ["a", "c"]
    assert changed(THREE, after) == [
        *("-  - id: b", "-    limits:", "-      rpm: 5   # slow", "-    # its last word", "-")
    ]


def test_the_last_entry_goes_and_what_follows_stays() -> None:
    after = without_key(THREE.encode(), PATH, 2)

    assert ids(after) == ["a", "b"]
    assert changed(THREE, after) == ["-  - {id: c,", "-     hash: x}"]


def test_the_only_entry_leaves_an_empty_list() -> None:
    after = without_key(b"server: {}\nkeys:\n- id: a\n  hash: x\n", PATH, 0)

    assert after == b"server: {}\nkeys:\n"


@pytest.mark.parametrize("before", ["keys: [{id: a}, {id: b}]\n", "keys: [&x {id: a}, *x]\n"])
def test_what_cannot_be_taken_out_line_by_line_is_refused(before: str) -> None:
    with pytest.raises(EditRefused):
        without_key(before.encode(), PATH, 0)


def test_an_entry_that_another_one_points_to_is_not_taken_out() -> None:
    with pytest.raises(EditRefused):
        without_key(b"keys:\n  - &x {id: a}\n  - *x\n", PATH, 0)


# --- changing one ---------------------------------------------------------------------------------

ROTATED: dict[str, tuple[str, list[str]]] = {
    "block": (
        f"keys:\n  - id: a   # shop\n    hash: {OLD}   # made in May\n    models: [m]\n",
        [
            f"-    hash: {OLD}   # made in May",
            f"+    hash: {NEW}   # made in May",
            f"+    previous: [{{hash: '{OLD}', until: '2030-01-01'}}]",
        ],
    ),
    "quotes": (
        f"keys:\n- hash: '{OLD}'\n  id: \"a\"\n",
        [
            f"-- hash: '{OLD}'",
            f"+- hash: '{NEW}'",
            f"+  previous: [{{hash: '{OLD}', until: '2030-01-01'}}]",
        ],
    ),
    "flow": (
        f"keys:\n  - {{id: a, hash: {OLD}, models: [m]}}   # shop\n",
        [
            f"-  - {{id: a, hash: {OLD}, models: [m]}}   # shop",
            f"+  - {{id: a, hash: {NEW}, previous: [{{hash: '{OLD}', until: '2030-01-01'}}], "
            "models: [m]}   # shop",
        ],
    ),
    "windows": (
        f"keys:\r\n  - id: a\r\n    hash: {OLD}\r\n",
        [
            f"-    hash: {OLD}",
            f"+    hash: {NEW}",
            f"+    previous: [{{hash: '{OLD}', until: '2030-01-01'}}]",
        ],
    ),
}


@pytest.mark.parametrize(("before", "lines"), ROTATED.values(), ids=ROTATED)
def test_a_hash_is_replaced_where_it_stands(before: str, lines: list[str]) -> None:
    after = with_options(before.encode(), PATH, 0, {"hash": NEW, "previous": FORMER})

    found = [
        line.replace(f"hash: '{OLD}', until", f"hash: {OLD}, until")
        for line in changed(before, after)
    ]
    assert found == [line.replace(f"hash: '{OLD}', until", f"hash: {OLD}, until") for line in lines]
    (entry,) = entries_of(written(after, PATH))
    assert (entry["hash"], entry["previous"]) == (NEW, FORMER)


def test_a_hash_takes_the_place_of_a_key_as_text() -> None:
    before = "keys:\n  - id: a\n    key: 'sk-secret-0123456789'   # careful\n    models: [m]\n"

    after = with_options(before.encode(), PATH, 0, {"hash": NEW, "key": None})

    assert changed(before, after) == [
        "-    key: 'sk-secret-0123456789'   # careful",
        f"+    hash: '{NEW}'   # careful",
    ]


def test_what_was_there_before_is_replaced_in_any_style() -> None:
    before = (
        f"keys:\n  - id: a\n    hash: {OLD}\n    previous:\n      - hash: x\n        until: y\n"
        "    models: [m]\n"
    )

    after = with_options(before.encode(), PATH, 0, {"hash": NEW, "previous": FORMER})
    gone = with_options(before.encode(), PATH, 0, {"hash": NEW, "previous": None})

    assert entries_of(written(after, PATH)) == [
        {"id": "a", "hash": NEW, "previous": FORMER, "models": ["m"]}
    ]
    assert gone.decode() == f"keys:\n  - id: a\n    hash: {NEW}\n    models: [m]\n"


def test_an_option_goes_out_of_an_entry_in_one_line() -> None:
    before = f"keys:\n  - {{id: a, hash: {OLD}, previous: [{{hash: x, until: y}}], weight: 2}}\n"

    after = with_options(before.encode(), PATH, 0, {"hash": NEW, "previous": None})

    assert after.decode() == f"keys:\n  - {{id: a, hash: {NEW}, weight: 2}}\n"


def test_a_block_text_is_replaced_whole() -> None:
    before = "keys:\n  - id: a\n    key: |\n      sk-secret-0123456789\n    models: [m]\n"

    after = with_options(before.encode(), PATH, 0, {"hash": NEW, "key": None})

    assert after.decode() == f"keys:\n  - id: a\n    hash: {NEW}\n    models: [m]\n"


# --- whatever stands there ------------------------------------------------------------------------

OPTIONS = st.sampled_from(
    [
        "hash: sha256:00",
        "hash: 'sha256:00'  # quoted",
        'key: "sk-secret-0123456789"',
        "key: sk-secret-0123456789",
        "models: [a, b]",
        "models:\n      - a  # one\n      - b",
        "limits: {rpm: 5,\n      tpm: 6}",
        "previous: [{hash: x, until: y}]",
        "previous:\n    - hash: x\n      until: y",
        "# only a comment",
        "note: |\n      text\n\n      more",
    ]
)


@given(
    st.lists(
        st.lists(OPTIONS, max_size=4, unique_by=lambda text: text.split(":")[0]),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 3),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\n", "# between\n"]),
)
def test_an_edit_does_what_was_asked_or_is_refused(
    entries: list[list[str]], which: int, end: str, between: str
) -> None:
    which %= len(entries)
    text = "server: {workers: 1}\nkeys:\n" + between.join(
        f"  - id: k{number}\n" + "".join(f"    {option}\n" for option in options)
        for number, options in enumerate(entries)
    )
    source = (text + "models: {m: {static: x}}\n").replace("\n", end).encode()
    keys = entries_of(written(source, PATH))

    options: dict[str, Any] = {"hash": NEW, "previous": FORMER}
    if "key" in keys[which]:
        options["key"] = None
    changes = with_options(source, PATH, which, options)
    removed = without_key(source, PATH, which)
    added = with_keys(source, PATH, [ENTRY])

    wanted = {name: value for name, value in (keys[which] | options).items() if value is not None}
    rest = [*keys[:which], *keys[which + 1 :]]
    assert entries_of(written(changes, PATH)) == [*keys[:which], wanted, *keys[which + 1 :]]
    assert entries_of(written(removed, PATH)) == rest
    assert entries_of(written(added, PATH)) == [*keys, ENTRY]


# --- secrets --------------------------------------------------------------------------------------


def test_lines_to_be_shown_have_no_secrets() -> None:
    source = b"""\
upstreams:
  a:
    api_keys:
      - provider-0123456789
      - "${VARIABLE}"
admin: {token: letmein-0123456789}
quota_store: redis://:password@host/0
keys:
  - id: a
    key: clear-0123456789
  - id: b
    key: |
      folded-0123456789
    models: [m]
  - {id: c, key: 'quoted-0123456789', models: [m]}
"""

    shown = "\n".join(veiled_lines(source))

    assert len(shown.splitlines()) == len(source.splitlines())
    for secret in ("provider", "letmein", "password", "clear", "folded", "quoted"):
        assert secret not in shown
    assert "${VARIABLE}" in shown
    assert "models: [m]" in shown
