"""A stream that its upstream broke, continued by another (`resume`): what is asked, shown and billed."""

from __future__ import annotations

import json

import pytest

from relay.chatbody import decode
from relay.resume import body_of_the_rest, head_of_the_rest
from relay.routes import FIRST_RATIO
from relay.upstream.directory import Directory
from tests.calls import called, model, tries, upstreams
from tests.plane import NOWHERE, Plane, play
from tests.resumed import FIRST, PREFIX, REST, chunks, second, text_of
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body
from tests.rig.relay_process import Fields

CONTINUE: Fields = {"resume": "continue-final-message"}
SAID = "Hello, "


@pytest.mark.parametrize("way", [PREFIX, CONTINUE])
def test_the_client_reads_one_answer_under_one_id(way: Fields) -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **way)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST)
            first.leave(ConnectionResetError())
            other.say(REST)

            reply = caller.answers.only
            assert reply.whole
            assert reply.body.endswith(say.DONE)
            assert text_of(reply.body) == say.TEXT
            assert {chunk["id"] for chunk in chunks(reply.body)} == {"chatcmpl-1"}
            assert {chunk["created"] for chunk in chunks(reply.body)} == {1700000000}
            roles = [c["choices"][0]["delta"].get("role") for c in chunks(reply.body)]
            assert roles.count("assistant") == 1
            record = plane.records[0]
            assert tries(record) == [("a", "upstream_reset"), ("b", "ok")]
            assert (record.outcome, record.cause, record.upstream) == ("ok", "done", "b")
            assert record.resumed
            assert plane.snapshot.routes["m"].memory.resumes == {"continued": 1}
            caller.leave()

    play(scene())


def test_deepseek_is_given_the_text_as_a_prefix() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab", max_tokens=100)
            first.say(FIRST)
            first.leave()

            asked = other.body()
            assert asked["messages"][-1] == {"role": "assistant", "content": SAID, "prefix": True}
            assert asked["messages"][:-1] == first.body()["messages"]
            assert asked["max_tokens"] == 97, "three events have been delivered"
            assert asked["stream"] is True
            assert "continue_final_message" not in asked
            other.say(REST)
            caller.leave()

    play(scene())


def test_vllm_is_told_to_continue_the_final_message() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **CONTINUE)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST)
            first.leave()

            asked = other.body()
            assert asked["messages"][-1] == {"role": "assistant", "content": SAID}
            assert asked["continue_final_message"] is True
            assert asked["add_generation_prompt"] is False
            other.say(REST)
            caller.leave()

    play(scene())


def test_the_usage_of_both_parts_is_one() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab", stream_options={"include_usage": True})
            first.say(FIRST)
            first.leave()
            other.say(REST)

            usage = chunks(caller.answers.only.body)[-1]["usage"]
            billed = plane.records[0].usage
            assert billed is not None
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (
                billed.input,
                billed.output,
            )
            assert usage["total_tokens"] == billed.input + billed.output
            assert billed.output == say.USAGE["completion_tokens"] + 3
            assert billed.input > say.USAGE["prompt_tokens"]
            assert plane.gate.leases[0].settled == [(billed.input + billed.output, 0)]
            caller.leave()

    play(scene())


@pytest.mark.parametrize(
    ("first_counts", "second_counts"), [("final", "continuous"), ("continuous", "final")]
)
def test_running_counts_are_kept_from_the_client_whoever_sends_them(
    first_counts: str, second_counts: str
) -> None:
    ways = {"a": NOWHERE | {"usage": first_counts}, "b": NOWHERE | {"usage": second_counts}}

    def words(counts: str, *parts: str) -> list[bytes]:
        """Each with the count so far, where that upstream was asked for it."""
        sent = enumerate(parts, 1)
        if counts == "final":
            return [say.delta({"content": part}) for _, part in sent]
        return [
            say.delta({"content": part}, usage=say.USAGE | {"completion_tokens": n})
            for n, part in sent
        ]

    async def scene() -> None:
        async with Plane(ways, {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab", stream_options={"include_usage": True})
            first.say(
                say.SSE_HEAD + say.frame(b"".join([say.ROLE, *words(first_counts, "a", "b")]))
            )
            first.leave()
            # Who was asked for running counts tells the sum apart; of the others some have it ride on the last word.
            end = [say.delta({}, finish="stop", usage=say.USAGE)]
            if second_counts == "continuous":
                end.append(say.usage_event())
            other.say(second(say.ROLE, *words(second_counts, "c", "d"), *end, say.DONE))

            told = chunks(caller.answers.only.body)
            assert text_of(caller.answers.only.body) == "abcd"
            counted = [chunk for chunk in told if chunk.get("usage") is not None]
            assert counted == told[-1:], "the sum, once, at the end"
            caller.leave()

    play(scene())


def test_a_successor_without_a_report_is_estimated_with_its_own_prompt() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST)
            first.leave()
            other.say(second(say.ROLE, *say.WORDS[2:], say.FINISH, say.DONE))

            usage = plane.records[0].usage
            assert usage is not None
            assert usage.source == "estimated"
            # The prompt twice, and the second time what had been said so far.
            assert usage.input == 2 * round(len(chat_body()) * FIRST_RATIO) + 3
            assert usage.output == 3 + 4
            caller.leave()

    play(scene())


def test_a_reservation_covers_both_parts() -> None:
    async def scene() -> None:
        models = {"once": model("a"), "twice": model("a", **PREFIX)}
        async with Plane(upstreams(1), models) as plane:
            snapshot = plane.snapshot
            chat = decode(
                b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":5}'
            )
            once = snapshot.need(snapshot.routes["once"], chat, 100, money=False)
            twice = snapshot.need(snapshot.routes["twice"], chat, 100, money=False)

            assert once.tokens_worst == 105
            # Prompt and the answer, then the prompt with what was said, and the rest of the answer.
            assert twice.tokens_worst >= 100 + 5 + 100 + 5

    play(scene())


def test_deepseek_itself_takes_prefixes_at_another_path() -> None:
    directory = Directory()
    official = directory.endpoint(
        upstream="d", base_url="https://api.deepseek.com/v1", credential="sk-1"
    )
    reseller = directory.endpoint(upstream="r", base_url="https://reseller.example/v1")

    head = head_of_the_rest(official, "deepseek-prefix")
    assert head is not None
    assert head.startswith(b"POST /beta/chat/completions HTTP/1.1\r\nhost: api.deepseek.com\r\n")
    assert b"authorization: Bearer sk-1\r\n" in head
    assert head_of_the_rest(reseller, "deepseek-prefix") is None
    assert head_of_the_rest(official, "continue-final-message") is None


def test_the_rest_is_asked_for_with_the_calls_own_words() -> None:
    raw = b'{"model":"m","messages":[ ],"temperature":0.25,"x":{"y":[1]},"max_completion_tokens":3}'
    body = json.loads(body_of_the_rest(raw, decode(raw), "deepseek-prefix", 'so "far"', 7))

    assert body["messages"] == [{"role": "assistant", "content": 'so "far"', "prefix": True}]
    assert body["temperature"] == 0.25
    assert body["x"] == {"y": [1]}
    assert body["max_completion_tokens"] == 1
