"""The picture that `relay top` makes of a status: what stands where, how it looks, and its sentences."""

from __future__ import annotations

import re

import msgspec

from relay.commands import screen, table, topwords
from relay.commands.topview import FEWEST, picture
from relay.page.facts import Answer, Finding, UpstreamStatus
from tests.rig.relay_process import ROOT


def answer(**more: object) -> Answer:
    """A relay with something of everything."""
    up = {"ttft_p50": 0.31, "ttft_p95": 1.25, "attempts": 40, "failed": 2, "last_error": "5xx"}
    return msgspec.convert(
        {
            **{"version": "0.1.0", "uptime_seconds": 7_500.0, "config_path": "config.yaml"},
            **{"config_digest": "ab" * 32, "inflight_streams": 3, "at": 1_800_000_000.0},
            **{"window_seconds": 300.0, "ttft_target": 0.8},
            "upstreams": [
                {"name": "快速", "states": {"closed": 1}, "inflight": 3, "max_concurrent": 40} | up,
                {"name": "slow", "states": {"open": 2}, "inflight": 0, "max_concurrent": None},
            ],
            "totals": {"calls": 40, "failed": 2, "spend_today": 1234.5},
            "keys": [{"key": f"店{n}", "limit": "rpm", "ratio": 1 - n / 10} for n in range(10)],
            "history": {"step_seconds": 5.0, "ttft": {"快速": [None, 0.1, 0.2, 1.6]}},
            "failures": [
                {
                    **{"at": 1_800_000_000.0, "request_id": f"req_{n}", "outcome": "timeout"},
                    **{"code": 504, "upstream": "slow", "tries": [["slow", "idle_timeout", 3.0]]},
                }
                for n in range(30)
            ],
            "headline": [
                {
                    "about": "upstreams",
                    "code": "open",
                    "level": "bad",
                    "facts": {"name": "slow", "error": "5xx"},
                },
                {
                    "about": "keys",
                    "code": "near",
                    "level": "warn",
                    "facts": {"key": "店0", "limit": "rpm", "ratio": 1.0},
                },
            ],
        }
        | more,
        Answer,
    )


def texts(lines: list[screen.Line]) -> list[str]:
    return [text for text, _ in lines]


def test_columns_stand_under_each_other_whatever_the_names_are() -> None:
    lines = texts(picture(answer(), None, curves=True))

    at = next(number for number, line in enumerate(lines) if line.startswith("UPSTREAM"))
    quick, slow = lines[at + 1 : at + 3]
    assert quick.startswith("快速 ")
    assert quick.endswith(" ▁▂█")
    ends = table.width(quick[: quick.index("3/40") + 4]), table.width(slow[: slow.index(" 0 ") + 2])
    assert set(ends) == {lines[at].index("IN FLIGHT") + len("IN FLIGHT")}
    rows = [line for line in lines if line.startswith("店")]
    assert len({table.width(line) for line in rows}) == 1


def test_a_small_window_keeps_the_news_and_gives_failures_some_room() -> None:
    lines = texts(picture(answer(), 24, curves=False))

    assert len(lines) == 24
    assert sum("timed out" in line for line in lines) >= FEWEST
    assert any(line.startswith("店0") for line in lines)
    assert lines[3] == "BAD   slow is out: ejected after failures (5xx)"
    assert len(picture(answer(), 5, curves=False)) >= 5


def test_states_and_levels_have_looks() -> None:
    looks = dict(picture(answer(), None, curves=False))

    assert {look for text, look in looks.items() if text.startswith("slow ")} == {"bad"}
    assert {look for text, look in looks.items() if text.startswith("快速")} == {"warn"}
    assert {look for text, look in looks.items() if text.startswith("店0")} == {"bad"}
    assert {look for text, look in looks.items() if text.startswith("店2")} == {"warn"}


def test_an_idle_relay_has_a_picture_too() -> None:
    bare = Answer("0.1.0", 3.0, "c", "d", 0, [UpstreamStatus("a", {}, 0, None)])

    lines = texts(picture(bare, None, curves=True))

    assert any(line.startswith("a ") for line in lines)


def test_nothing_that_is_told_commands_the_terminal() -> None:
    evil = "x\x1b[2J\n\x07\u202e"

    lines = picture(answer(config_path=evil, reload_successful=False), None, curves=True)

    written = [screen.shown(text, 60) for text, _ in lines]
    assert all(line.isprintable() for line in written)
    assert all(table.width(line) <= 60 for line in written)


def test_what_the_last_reload_changed_stands_beside_the_file() -> None:
    made = {"at": 1_800_000_000.0, "successful": True}
    changed = answer(reload=made | {"changes": {"keys": ["+a", "~b"], "models": ["-m"]}})
    same = answer(reload=made)

    second = [texts(picture(each, None, curves=False))[2] for each in (changed, same)]

    assert second == [
        "reloaded at 08:00:00 UTC: keys +a ~b, models -m",
        "reloaded at 08:00:00 UTC: nothing changed",
    ]


def test_a_key_that_expires_is_named_with_the_time_that_is_left() -> None:
    finding = Finding("keys", "expires", "warn", {"key": "shop", "left": 2 * 86_400 + 3 * 3600})

    assert topwords.sentence(finding, 300) == "shop expires in 2 d 3 h"


def test_every_finding_of_the_page_has_its_sentence_here() -> None:
    page = (ROOT / "relay" / "page" / "static" / "words-en.js").read_text("utf-8")
    codes = set(re.findall(r"^  ((?:users|upstreams|keys|relay)_\w+):", page, re.MULTILINE))

    assert codes - {"users_fine_plain"} == set(topwords.SENTENCES)


def test_a_finding_of_a_newer_relay_is_named_by_its_code() -> None:
    assert topwords.sentence(Finding("keys", "brand_new", "warn"), 300) == "keys: brand new"
    assert topwords.sentence(Finding("keys", "near", "warn"), 300) == "keys: near"
