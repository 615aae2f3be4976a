"""What `relay explain` says of a call before there is one, and that the relay then does so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from relay.cli import main
from relay.config.file import load
from relay.explain import NoSuchKey, explain
from tests.rig import RelayProcess, Upstream, config, scenario
from tests.rig.raw_client import KEY

NOON = 1893499200.0
"""2030-01-01T12:00:00Z, a Tuesday."""
CONFIG = """\
upstreams:
  a: {base_url: https://a.example/v1, api_keys: [sk-0123456789abcdef, sk-1123456789abcdef], max_concurrent: 5}
  b: {base_url: https://b.example/v1, api_keys: ["${B:-}"]}
  demo: {kind: demo}
models:
  deepseek-chat:
    pool: [{upstream: demo, tier: 9}, {upstream: b, tier: 1}, {upstream: a, model: other}]
    fallback: [free, sorry]
    price:
      input: 0.27
      cached_input: 0.07
      output: 0.42
      windows: [{hours: [16:30-00:30], days: [wed], input: 0.1, output: 0.2}]
    max_output: 1000
  empty: {pool: [{upstream: b}]}
  shown: {pool: [{upstream: demo}]}
  resold:
    pool: [{upstream: a}, {upstream: b, price: {input: 9, output: 9}}, {upstream: demo, price: {input: 8, output: 8}}]
    price: {input: 1, output: 2}
  free: {pool: [{upstream: a}]}
  sorry: {static: later}
groups: {team: {limits: {rpm: 600, models: {deepseek-chat: {rpm: 30, shadow: true}}}}}
keys:
  - {id: ok, hash: "@1", limits: {tpm: 9000, usd_per_day: 1}, group: team, models: [deepseek-*, e*, free]}
  - {id: poor, hash: "@2", limits: {tokens_per_day: 999}}
  - {id: old, hash: "@3", expires: 2029-01-01}
  - {id: far, hash: "@4", allow_ips: [10.0.0.0/8], on_revoke: cut}
  - {id: out}
  - {id: rich, hash: "@6"}
key_files: [keys.jsonl]
"""
FILED = '{"id": "filed", "hash": "@5", "models": ["x*"]}\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELAY_CONFIG", raising=False)
    for name, text in (("config.yaml", CONFIG), ("keys.jsonl", FILED)):
        hashed = re.sub("@([0-9])", lambda found: f"sha256:{int(found[1]):064x}", text)
        (tmp_path / name).write_text(hashed)
    return tmp_path


def facts(key: str, model: str | None = "deepseek-chat", body: object = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    return explain(load(Path("config.yaml"), {}), key, model, data, NOON)


def test_an_admitted_call_is_told_its_limits_with_what_it_would_take() -> None:
    found = facts("ok")

    assert not found["refused"]
    assert [
        (one["limit"], one["model"], one["of"], one["allowed"], one["counts_only"])
        for one in found["limits"]
    ] == [
        ("tpm", None, "key", 9000, False),
        ("usd_per_day", None, "key", 1.0, False),
        ("rpm", None, "group team", 600, False),
        ("rpm", "deepseek-chat", "group team", 30, True),
    ]
    assert [one["reserved"] for one in found["limits"]] == [1000, 0.00042, 1, 1]
    assert {one["used"] for one in found["limits"]} == {None}


def test_a_body_says_how_long_prompt_and_answer_can_be() -> None:
    body = {
        "model": "deepseek-chat",
        "messages": [{"role": "user", "content": "x" * 1000}],
        "max_tokens": 50,
        "n": 2,
    }

    needs = facts("ok", None, body)["needs"]

    assert 1000 < needs["prompt_tokens"] < 1100
    assert needs["output_tokens"] == 100
    assert needs["tokens"] == needs["prompt_tokens"] + 100
    assert needs["usd"] == pytest.approx(needs["prompt_tokens"] * 0.27e-6 + 100 * 0.42e-6)


def test_members_stand_in_the_order_of_their_tiers_with_who_cannot_serve() -> None:
    route = facts("ok")["route"]

    assert [(one["upstream"], one["model"], one["serves"]) for one in route["members"]] == [
        ("a", "other", True),
        ("b", "deepseek-chat", False),
        ("demo", "deepseek-chat", False),
    ]
    assert "left out" in route["members"][1]["note"]
    assert "steps aside" in route["members"][2]["note"]
    assert route["fallback"] == ["free (passed over: it has no price)", "sorry (static)"]


def test_the_price_now_and_when_it_changes() -> None:
    price = facts("ok")["price"]

    assert price == {
        "now": {"input": 0.27, "cached_input": 0.07, "output": 0.42},
        "changes": "2030-01-02T16:30:00Z",
        "then": {"input": 0.1, "cached_input": 0.1, "output": 0.2},
    }


def test_a_member_that_takes_another_price_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    members = facts("rich", "resold")["route"]["members"]

    assert [one["price"] and one["price"]["now"]["input"] for one in members] == [None, 9, None]
    assert main(["explain", "--key", "rich", "--model", "resold"]) == 0
    assert (
        "price     now input 1, cached input 1, output 2 (US$ per million tokens)\n"
        "          at b now input 9, cached input 9, output 9 (US$ per million tokens)\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "model", "body", "status", "code", "why"),
    [
        ("out", "deepseek-chat", None, 401, "invalid_api_key", "is left out"),
        ("old", "deepseek-chat", None, 401, "invalid_api_key", None),
        ("ok", "sorry", None, 404, "model_not_found", "its models are deepseek-*, e*, free"),
        ("ok", "deepseek-chta", None, 404, "model_not_found", "did you mean 'deepseek-chat'?"),
        ("filed", "deepseek-chat", None, 404, "model_not_found", "its models are x*"),
        ("poor", "deepseek-chat", None, 429, "insufficient_quota", None),
        ("ok", "free", None, 403, "model_not_priced", None),
        ("rich", "empty", None, 503, "no_upstream_available", "all its upstreams are left out"),
        ("ok", "deepseek-chat", {"model": 3}, 400, None, None),
        ("old", "nothing", {"model": 3}, 401, "invalid_api_key", None),
    ],
)
def test_what_is_sure_to_be_refused_is_told_with_the_error_of_the_client(
    key: str, model: str, body: object, status: int, code: str | None, why: str | None
) -> None:
    found = facts(key, model, body)

    assert found["refused"]
    assert (found["error"]["status"], found["error"]["code"]) == (status, code)
    assert (why or "") in found.get("why", "")
    assert ("why" in found) == (why is not None)


@pytest.mark.parametrize(
    ("key", "model"), [("far", "deepseek-chat"), ("poor", "shown"), ("old", "sorry")]
)
def test_where_a_call_comes_from_is_taken_to_be_allowed(key: str, model: str) -> None:
    found = facts(key, model)

    assert found["refused"] == (key in ("old", "poor"))


def test_an_id_that_nobody_has_is_told_with_who_may_be_meant() -> None:
    with pytest.raises(NoSuchKey, match=r"'poro', did you mean 'poor'\?"):
        facts("poro")


def test_the_command_tells_it_to_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    told = main(["explain", "--key", "ok", "--model", "deepseek-chat"])
    text = capsys.readouterr().out
    parsed = main(["explain", "--key", "ok", "--model", "deepseek-chat", "--json"])
    found = json.loads(capsys.readouterr().out)
    refused = main(["explain", "--key", "filed", "--model", "sorry"])
    why = capsys.readouterr().out
    nobody = main(["explain", "--key", "nobody", "--model", "sorry"])
    unasked = main(["explain", "--key", "ok"])
    out, err = capsys.readouterr()

    assert (told, parsed, refused, nobody, unasked) == (0, 0, 0, 1, 1)
    assert text.startswith(
        "deepseek-chat: admitted, as far as the files tell\nkey       ok, group team,"
    )
    assert "rpm of this model 30 (group team): used unknown, reserves 1, counted only" in text
    assert "tier 1: b as deepseek-chat, weight 1, left out" in text
    assert "then free (passed over: it has no price), then sorry (static)" in text
    assert "now input 0.27, cached input 0.07, output 0.42 (US$ per million tokens)" in text
    assert found["key"]["id"] == "ok"
    assert why.startswith("sorry: refused with 404 model_not_found: The model `sorry`")
    assert out == ""
    assert len(err.splitlines()) == 2


@scenario
async def test_what_a_relay_has_used_of_a_budget_is_known_and_refuses_as_the_relay_does(
    tmp_path: Path,
) -> None:
    keys = [{"id": "tester", "key": KEY, "limits": {"requests_per_day": 2, "rpm": 60}}]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys), tmp_path) as relay,
    ):
        await relay.chat()
        await relay.chat()
        third = await relay.chat()
        while True:
            loaded = load(relay.path, {})
            found = explain(loaded, "tester", "m", None, relay.path.stat().st_mtime)
            used = {one["limit"]: one["used"] for one in found["limits"]}
            if used["requests_per_day"] == 2:
                break

        assert used["rpm"] is None
        assert found["error"]["code"] == json.loads(third.body)["error"]["code"]
        assert found["error"]["message"] == json.loads(third.body)["error"]["message"]
