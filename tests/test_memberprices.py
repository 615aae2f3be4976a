"""What a model costs at each of its upstreams: providers of one model take different money for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.chatbody import decode
from relay.usage import Usage
from tests.calls import answer, called, fault, model, tries, upstreams
from tests.plane import Plane, play
from tests.resumed import FIRST, REST
from tests.rig import scripts as say
from tests.rig.raw_client import KEY
from tests.rig.relay_process import Fields

CHEAP = {"input": 1, "output": 2}
DEAR = {"input": 10, "output": 20}
IN, OUT = say.USAGE["prompt_tokens"], say.USAGE["completion_tokens"]


def nano(price: dict[str, int], taken: int, given: int) -> int:
    """US$ per million tokens are thousands of nano-dollars a token."""
    return 1000 * (taken * price["input"] + given * price["output"])


def pool(*prices: dict[str, int] | None, **more: Any) -> Fields:
    """A model whose upstreams a, b, … are tried in this order, each with a price of its own or none."""
    made = model("abcdef"[: len(prices)], **more)
    entries: Any = made["pool"]
    for entry, price in zip(entries, prices, strict=True):
        if price is not None:
            entry["price"] = price
    return made


def keys(**limits: object) -> list[Fields]:
    return [{"id": "tester", "key": KEY, "limits": limits}]


@pytest.mark.parametrize(("fails", "price"), [(False, CHEAP), (True, DEAR)])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_costs_what_whoever_answered_takes(
    fails: bool, price: dict[str, int], stream: bool
) -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": pool(None, DEAR, price=CHEAP)}) as plane:
            caller, providers = called(plane, "ab", stream=stream)
            if fails:
                providers[0].say(fault(500))
            providers[fails].say(REST if stream else answer())

            record = plane.records[0]
            assert record.usage == Usage(IN, OUT)
            assert record.cost == nano(price, IN, OUT)
            caller.leave()

    play(scene())


@pytest.mark.parametrize("models", [{"m": (CHEAP, DEAR)}, {"m": (CHEAP,), "n": (CHEAP, DEAR)}])
def test_reserved_is_what_the_dearest_takes(models: dict[str, tuple[dict[str, int], ...]]) -> None:
    """Of the model's upstreams, and of those of its fallbacks."""
    made = {name: pool(*prices) for name, prices in models.items()}
    made["m"] |= {"fallback": [name for name in models if name != "m"]}

    async def scene() -> None:
        async with Plane(upstreams(2), made) as plane:
            chat = decode(b'{"model":"m","messages":[],"max_tokens":100}')
            need = plane.snapshot.need(plane.snapshot.routes["m"], chat, 50, money=True)

            assert need.cost_worst == nano(DEAR, 50, 100)

    play(scene())


def test_each_part_of_a_resumed_answer_is_paid_to_who_gave_it() -> None:
    async def scene() -> None:
        models = {"m": pool(DEAR, CHEAP, resume="deepseek-prefix")}
        async with Plane(upstreams(2), models) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST)
            first.leave()
            other.say(REST)

            record = plane.records[0]
            usage = record.usage
            assert usage is not None
            assert tries(record)[-1] == ("b", "ok")
            assert record.cost == nano(DEAR, usage.input - IN, usage.output - OUT) + nano(
                CHEAP, IN, OUT
            )
            caller.leave()

    play(scene())


def test_a_client_that_leaves_before_the_first_token_owes_what_is_asked_by_then() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": pool(CHEAP, DEAR)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(fault(500))
            assert other.got
            caller.leave()

            record = plane.records[0]
            assert record.usage is not None
            assert record.cost == nano(DEAR, record.usage.input, record.usage.output)

    play(scene())


@pytest.mark.parametrize(("prices", "status"), [((CHEAP, DEAR), 200), ((CHEAP, None), 403)])
def test_money_is_limited_where_every_member_has_a_price(
    prices: tuple[dict[str, int] | None, ...], status: int
) -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": pool(*prices)}, keys(usd_per_day=5)) as plane:
            caller, (first, _) = called(plane, "ab", stream=False)
            if status == 200:
                first.say(answer())

            assert caller.answers.only.status == status
            caller.leave()

    play(scene())


def test_what_a_prompt_teaches_is_not_taught_by_two_prompts() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": pool(None, None, resume="deepseek-prefix")}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST)
            first.leave()
            other.say(REST)

            assert json.loads(other.got.partition(b"\r\n\r\n")[2])["messages"], "it was asked"
            assert plane.snapshot.routes["m"].memory.reports == 0
            caller.leave()

    play(scene())
