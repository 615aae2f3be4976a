"""What keeps an upstream out and whom that concerns: one key, one account, one model of it, or one member."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.observe.watchers import until
from tests.rig import (
    KEY,
    Models,
    RelayProcess,
    Request,
    Send,
    Stall,
    Upstream,
    Upstreams,
    chat,
    config,
    scenario,
    within,
)
from tests.rig import scripts as say
from tests.rig.raw_client import Answer

OTHER = "sk-other-0123456789abcdefghijklmnopqrstuvwxyzABCDEF"


def both(*upstreams: str, strategy: str = "weighted") -> Models:
    return {
        "m": {
            "pool": [{"upstream": name} for name in upstreams],
            "strategy": strategy,
            "retry": {"attempts": 3, "budget": "100%"},
        }
    }


def states(metrics: dict[str, float], upstream: str) -> set[str]:
    """The states in which it has endpoints."""
    of_it = [
        name
        for name, value in metrics.items()
        if name.startswith("relay_upstream_state{") and f'upstream="{upstream}"' in name and value
    ]
    return {name.split('state="')[1].split('"')[0] for name in of_it}


def available(metrics: dict[str, float]) -> dict[str, float]:
    """`relay_model_available` by model."""
    start = 'relay_model_available{model="'
    return {
        name.removeprefix(start).removesuffix('"}'): value
        for name, value in metrics.items()
        if name.startswith(start)
    }


HELD = say.sse(
    say.EVENTS[:2],
    say.Gate("end"),
    *(Send(say.frame(e)) for e in say.EVENTS[2:]),
    Send(say.LAST_CHUNK),
)


@scenario
@pytest.mark.parametrize("workers", [1, 2])
async def test_the_least_max_concurrent_of_an_account_holds_for_all_its_upstreams(
    tmp_path: Path, workers: int
) -> None:
    async with AsyncExitStack() as stack:
        at_gate = [asyncio.Event() for _ in range(9)]
        free = iter(at_gate)

        def held_open(request: Request) -> say.Script:
            arrived = next(free)
            return [*HELD[:2], say.Do(arrived.set), *HELD[2:]]

        a, b, c = [await stack.enter_async_context(Upstream(held_open)) for _ in "abc"]
        no_queue = {"max_calls": 0}
        upstreams: Upstreams = {
            "a": {"base_url": a.base_url, "max_concurrent": 9},
            "b": {"base_url": b.base_url, "max_concurrent": 4},
            "c": {"base_url": c.base_url},
        }
        for upstream in upstreams.values():
            assert isinstance(upstream, dict)
            upstream |= {"account": "one", "queue": no_queue}
        fields = config(upstreams, both("a", "b", "c"), server={"workers": workers})
        relay = await stack.enter_async_context(RelayProcess(fields, tmp_path))
        loop = asyncio.get_running_loop()
        held = [loop.create_task(chat(relay.address)) for _ in range(4)]
        async with within():
            await asyncio.gather(*(arrived.wait() for arrived in at_gate[:4]))

        refused = await relay.chat()

        assert refused.status == 503
        assert refused.error["code"] == "server_is_overloaded"
        for each in (a, b, c):
            for exchange in each.exchanges:
                exchange.open("end")
        async with within():
            assert [answer.status for answer in await asyncio.gather(*held)] == [200] * 4


@scenario
async def test_a_rejected_key_is_parked_alone_and_an_alert_can_see_it(tmp_path: Path) -> None:
    def by_key(request: Request) -> say.Script:
        good = request.headers["authorization"] == "Bearer sk-upstream-good-0123456789"
        return say.sse(say.EVENTS) if good else say.error(401, "Incorrect API key provided")

    async with Upstream(by_key) as one, Upstream() as two:
        keys = ["sk-upstream-bad-0123456789", "sk-upstream-good-0123456789"]
        upstreams: Upstreams = {"one": {"base_url": one.base_url, "api_keys": keys}, "two": two}
        async with RelayProcess(config(upstreams, both("one", "two")), tmp_path) as relay:
            answers = [await relay.chat() for _ in range(30)]

            assert {answer.status for answer in answers} == {200}
            rejected = [e for e in one.exchanges if "bad" in e.request.headers["authorization"]]
            assert len(rejected) == 1
            assert len(one.exchanges) > 10
            assert states(await relay.metrics(), "one") == {"parked", "closed"}
            assert "sk-upstream" not in relay.stderr + relay.stdout


@scenario
async def test_no_money_parks_every_key_of_the_account_wherever_it_is_used(tmp_path: Path) -> None:
    broke = say.error(402, "Insufficient Balance")
    async with Upstream(broke) as one, Upstream() as same, Upstream() as two:
        upstreams: Upstreams = {
            "one": {"base_url": one.base_url, "account": "ours"},
            "same": {"base_url": same.base_url, "account": "ours"},
            "two": two,
        }
        pool = [
            {"upstream": "one"},
            {"upstream": "same", "tier": 1},
            {"upstream": "two", "tier": 2},
        ]
        async with RelayProcess(config(upstreams, {"m": {"pool": pool}}), tmp_path) as relay:
            answers = [await relay.chat() for _ in range(5)]

            assert {answer.status for answer in answers} == {200}
            assert (len(one.exchanges), len(same.exchanges), len(two.exchanges)) == (1, 0, 5)
            found = await relay.metrics()
            assert (states(found, "one"), states(found, "same")) == ({"parked"}, {"parked"})


@scenario
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_model_that_nobody_can_answer_is_told_before_a_budget_burns(
    tmp_path: Path, workers: int
) -> None:
    async with Upstream(say.error(402, "Insufficient Balance")) as broke, Upstream() as well:
        models: Models = {
            "lone": {"pool": [{"upstream": "broke"}]},
            "backed": {"pool": [{"upstream": "broke"}], "fallback": ["spare"]},
            "spoken": {"pool": [{"upstream": "broke"}], "fallback": ["fixed"]},
            "spare": {"pool": [{"upstream": "broke"}, {"upstream": "well", "tier": 1}]},
            "fixed": {"static": "Later."},
        }
        fields = config({"broke": broke, "well": well}, models, server={"workers": workers})

        async with RelayProcess(fields, tmp_path) as relay:
            before = available(await relay.metrics())
            refused = await relay.chat(model="lone")

            async def told() -> bool:
                return available(await relay.metrics()) != before

            # Other workers hear of a park within a moment, a page is used again for half a second.
            await until(told)
            after = available(await relay.metrics())

        assert refused.status == 503
        assert before == dict.fromkeys(models, 1.0)
        assert after == before | {"lone": 0.0, "spoken": 0.0}


@scenario
async def test_what_one_client_may_not_ask_parks_nothing_for_the_others(tmp_path: Path) -> None:
    def moderated(request: Request) -> say.Script:
        bad = b"forbidden fruit" in request.body
        return say.error(403, "content policy") if bad else say.sse(say.EVENTS)

    async with Upstream(moderated) as only:
        keys = [{"id": "a", "key": KEY}, {"id": "b", "key": OTHER}]
        async with RelayProcess(config({"only": only}, keys=keys), tmp_path) as relay:
            messages = [{"role": "user", "content": "forbidden fruit"}]
            answers: list[tuple[Answer, Answer]] = []
            for _ in range(6):
                bad = await relay.chat(messages=messages)
                answers.append((bad, await relay.chat(key=OTHER)))

            assert {(bad.status, good.status) for bad, good in answers} == {(503, 200)}
            assert states(await relay.metrics(), "only") == {"closed"}


@scenario
async def test_accounts_rotate_and_a_throttled_one_rests_for_that_model_only(
    tmp_path: Path,
) -> None:
    def throttled(request: Request) -> say.Script:
        if request.json()["model"] == "m":
            return say.error(429, "slow down", headers=b"Retry-After: 60\r\n")
        return say.sse(say.EVENTS)

    async with AsyncExitStack() as stack:
        tired = await stack.enter_async_context(Upstream(throttled))
        others = [await stack.enter_async_context(Upstream()) for _ in range(3)]
        names = ["tired", "b", "c", "d"]
        upstreams: Upstreams = dict(zip(names, [tired, *others], strict=True))
        models = both(*names)
        models["n"] = models["m"]
        relay = await stack.enter_async_context(RelayProcess(config(upstreams, models), tmp_path))

        answers = [await relay.chat() for _ in range(40)]
        asked_m = len(tired.exchanges)
        rotated = [len(each.exchanges) for each in others]
        answers += [await relay.chat(model="n") for _ in range(40)]

        assert {answer.status for answer in answers} == {200}
        assert asked_m == 1
        assert all(12 <= count <= 15 for count in rotated), rotated
        assert len(tired.exchanges) == 11
        assert states(await relay.metrics(), "tired") == {"paused"}


@scenario
async def test_a_model_that_one_member_does_not_know_marks_that_member_alone(
    tmp_path: Path,
) -> None:
    def without_m(request: Request) -> say.Script:
        if request.json()["model"] == "m":
            return say.error(404, "The model `m` does not exist", code="model_not_found")
        return say.sse(say.EVENTS)

    async with Upstream(without_m) as a, Upstream() as b:
        models = both("a", "b")
        models["n"] = models["m"]
        async with RelayProcess(config({"a": a, "b": b}, models), tmp_path) as relay:
            answers = [await relay.chat() for _ in range(10)]
            asked_m = len(a.exchanges)
            answers += [await relay.chat(model="n") for _ in range(10)]

            assert {answer.status for answer in answers} == {200}
            assert asked_m == 1
            assert len(a.exchanges) == 1 + 5
            assert states(await relay.metrics(), "a") == {"closed"}


@scenario
async def test_a_probe_takes_a_dead_upstream_back_without_risking_a_call(tmp_path: Path) -> None:
    def listing(request: Request) -> say.Script:
        if request.head.startswith(b"GET /v1/models "):
            return say.plain(200, {"object": "list", "data": []})
        return say.sse(say.EVENTS)

    async with Upstream(say.error(500)) as bad, Upstream() as good:
        upstreams: Upstreams = {
            "bad": {"base_url": bad.base_url, "probe": {"interval": "1s"}},
            "good": good,
        }
        async with RelayProcess(config(upstreams), tmp_path) as relay:
            for _ in range(8):
                assert (await relay.chat()).status == 200
            failed = await relay.log(lambda line: "probe failed: 500" in line.get("reason", ""))
            calls = [e for e in bad.exchanges if e.request.head.startswith(b"POST")]
            bad.script = listing
            closed = await relay.log(lambda line: line.get("state") == "closed")

            assert len(calls) == 5
            assert (failed["state"], failed["upstream"]) == ("open", "bad")
            assert closed["reason"] == "the probe succeeded"
            assert not [e for e in bad.exchanges[len(calls) :] if e.request.head[:4] == b"POST"]
            answer = await relay.chat()
            assert (await relay.call_of(answer))["upstream"] == "bad"
            assert "sk-upstream" not in relay.stderr + relay.stdout


@scenario
async def test_probes_begin_and_end_with_a_reload(tmp_path: Path) -> None:
    async with Upstream(say.error(500)) as bad, Upstream() as good:
        fields = config({"bad": bad, "good": good})
        async with RelayProcess(fields, tmp_path) as relay:
            for _ in range(6):
                assert (await relay.chat()).status == 200
            fields["upstreams"]["bad"]["probe"] = {"interval": "1s"}
            relay.write(fields)
            relay.reload()
            await relay.log(lambda line: "probe failed" in line.get("reason", ""))
            del fields["upstreams"]["bad"]["probe"]
            relay.write(fields)
            relay.reload()
            await relay.nth_log(1, lambda line: line.get("event") == "reloaded")

            metrics = await relay.metrics()

            assert states(metrics, "bad") == {"open"}
            asked = len([e for e in bad.exchanges if e.request.head.startswith(b"GET")])
            assert asked in (1, 2)


@scenario
async def test_the_impatience_of_one_client_ejects_nobody(tmp_path: Path) -> None:
    async with (
        Upstream([Stall()]) as first,
        Upstream() as second,
        RelayProcess(config({"first": first, "second": second}), tmp_path) as relay,
    ):
        for _ in range(7):
            hurried = await relay.chat(headers={"x-relay-first-token-ms": "30"})
            assert hurried.status in (200, 504)
        first.script = say.sse(say.EVENTS)

        answer = await relay.chat()

        assert (await relay.call_of(answer))["upstream"] == "first"
        assert states(await relay.metrics(), "first") == {"closed"}


@scenario
async def test_an_upstream_that_hangs_is_ejected_though_hedges_answer_for_it(
    tmp_path: Path,
) -> None:
    pool = [{"upstream": "hung"}, {"upstream": "good", "tier": 1}]
    models: Models = {"m": {"pool": pool, "hedge": {"after": "20ms", "budget": "100%"}}}
    async with (
        Upstream([Stall()]) as hung,
        Upstream() as good,
        RelayProcess(config({"hung": hung, "good": good}, models), tmp_path) as relay,
    ):
        answers = [await relay.chat() for _ in range(8)]

        assert {answer.text for answer in answers} == {say.TEXT}
        assert len(hung.exchanges) == 5
        opened = await relay.log(lambda line: line.get("state") == "open")
        assert opened["reason"] == "5 attempts in a row were silent, and outrun"
        await relay.call_of(answers[-1])
        metrics = await relay.metrics()
        cancelled = [
            value
            for name, value in metrics.items()
            if name.startswith("relay_upstream_attempts_total")
            and 'upstream="hung"' in name
            and 'result="cancelled"' in name
        ]
        assert cancelled == [5]


@scenario
async def test_an_upstream_that_brings_tokens_is_not_ejected_for_being_outrun_at_times(
    tmp_path: Path,
) -> None:
    pool = [{"upstream": "slow"}, {"upstream": "good", "tier": 1}]
    models: Models = {"m": {"pool": pool, "hedge": {"after": "100ms", "budget": "100%"}}}
    async with (
        Upstream() as slow,
        Upstream() as good,
        RelayProcess(config({"slow": slow, "good": good}, models), tmp_path) as relay,
    ):
        for _ in range(3):
            slow.then(*[[Stall()]] * 4)
            for _ in range(5):
                assert (await relay.chat()).text == say.TEXT

        assert len(slow.exchanges) == 15
        assert states(await relay.metrics(), "slow") == {"closed"}
