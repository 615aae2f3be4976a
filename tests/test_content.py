from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.content import MOST, Content
from tests.crew import several
from tests.rig import KEY, RawClient, RelayProcess, Reset, Upstream, config, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.relay_process import Fields, Line

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    b"x-request-id: r\r\n\r\n"
)
STREAM = HEAD + b"".join(say.frame(event) for event in say.EVENTS) + say.LAST_CHUNK
OTHER = "sk-other-client-0123456789"


def heard(*pieces: bytes, prompt: bytes = b"[]") -> Content:
    content = Content(prompt)
    for piece in pieces:
        content.hear(piece)
    return content


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_the_words_of_a_stream_are_the_same_however_it_is_cut(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(STREAM)})
    pieces = [STREAM[a:b] for a, b in pairwise(places)]

    content = heard(*pieces)

    assert (content.answer, content.thoughts, content.cut) == (say.TEXT, [], False)


def test_reasoning_and_the_arguments_of_tools_are_words_too() -> None:
    call = {"index": 0, "function": {"name": "find", "arguments": '{"q":1}'}}
    events = [
        say.delta({"reasoning_content": "hm, "}),
        say.delta({"reasoning": "yes"}),
        say.delta({"tool_calls": [call]}),
        say.event({"choices": [{"index": 0, "text": "old"}]}),
    ]

    content = heard(HEAD, *map(say.frame, events))

    assert "".join(content.thoughts) == "hm, yes"
    assert content.answer == 'find{"q":1}old'


def test_a_plain_answer_is_kept_as_it_is() -> None:
    body = b'{"choices":[]}'

    content = heard(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + body)

    assert content.answer == body.decode()


@pytest.mark.parametrize(
    "junk",
    [
        *(b"data: nonsense\n\n", b"data: 7\n\n", b'data: {"choices":7}\n\n', b": hi\n\n"),
        *(b'data: {"choices":[7,{"delta":7},{"delta":{"tool_calls":[7,{"function":7}]}}]}\n\n',),
        *(b'data: {"choices":[{"delta":{"content":7}}]}\n\n', b"data: \xff\n\n"),
    ],
)
def test_an_event_that_says_nothing_is_passed_over(junk: bytes) -> None:
    content = heard(HEAD, say.frame(junk), say.frame(say.WORDS[0]))

    assert content.answer == "Hel"


def test_both_texts_are_bounded_and_say_so() -> None:
    long = "ü" * MOST

    content = heard(HEAD, say.frame(say.delta({"content": long})), prompt=b"x" * (MOST + 1))

    assert (len(content.prompt), len(content.answer.encode()), content.cut) == (MOST, MOST, True)
    assert not heard(HEAD, prompt=b"x" * MOST).cut


# --- the whole ------------------------------------------------------------------------------------


def named(upstream: Upstream, *ids: str) -> Fields:
    keys = [{"id": "tester", "key": KEY}, {"id": "quiet", "key": OTHER}]
    return config({"a": upstream}, keys=keys, observability={"log_content": list(ids)})


WRITTEN = "observability.log_content: prompts and answers of {} are written to the log."


def told(relay: RelayProcess) -> list[Line]:
    return [line for line in relay.lines if line["event"] == "content"]


@scenario
async def test_only_the_calls_of_a_named_key_are_written(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "What of sk-abcdef0123456789? 你好"}]
    async with (
        Upstream() as upstream,
        RelayProcess(named(upstream, "tester"), tmp_path) as relay,
    ):
        await relay.chat(key=OTHER, messages=[{"role": "user", "content": "not-to-be-seen"}])
        stream = await relay.chat(messages=prompt)
        plain = await relay.chat(messages=prompt, stream=False)
        await relay.call_of(plain)
        first = await relay.log(lambda line: line["event"] == "content")
        second = await relay.nth_log(1, lambda line: line["event"] == "content")

        assert len(told(relay)) == 2
        assert first["request_id"] == stream.headers["x-request-id"]
        assert (first["key"], first["outcome"], first["cut"]) == ("tester", "ok", False)
        assert first["answer"] == stream.text == say.TEXT
        assert json.loads(first["prompt"])[0]["content"] == "What of sk-…? 你好"
        assert second["request_id"] == plain.headers["x-request-id"]
        assert json.loads(second["answer"]) == plain.json()
        assert "not-to-be-seen" not in relay.stderr
        assert not {KEY, OTHER, "sk-upstream-a"} & set(relay.stderr.split('"'))
        (notice,) = relay.ready["notices"]
        assert notice == (
            "observability.log_content: prompts and answers of 'tester' are written to the log."
        )


@scenario
async def test_a_broken_stream_is_written_as_far_as_it_came(tmp_path: Path) -> None:
    async with (
        Upstream(say.sse(say.EVENTS[:3], Reset())) as upstream,
        RelayProcess(named(upstream, "tester"), tmp_path) as relay,
    ):
        await relay.chat()
        line = await relay.log(lambda line: line["event"] == "content")

        assert line["outcome"] == "stream_truncated"
        assert line["answer"].startswith("Hello, {")
        assert "upstream" in line["answer"]


@scenario
async def test_a_reload_turns_it_on_and_off(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        fields = named(upstream)
        async with RelayProcess(fields, tmp_path) as relay:
            state = {"state": {"path": str(tmp_path / "state")}}
            await relay.call_of(await relay.chat())
            for number, ids in enumerate((["tester"], [])):
                fields["observability"] = {"log_content": ids}
                relay.write(state | fields)
                relay.reload()
                await relay.nth_log(number, lambda line: line["event"] == "reloaded")
                await relay.call_of(await relay.chat())

            assert len(told(relay)) == 1


@pytest.mark.parametrize("workers", [1, 2])
@scenario
async def test_a_reload_that_adds_a_key_warns_again_and_one_that_adds_none_does_not(
    tmp_path: Path, workers: int
) -> None:
    async with Upstream() as upstream:
        fields = several(workers, named(upstream, "tester"))
        async with RelayProcess(fields, tmp_path) as relay:
            state = {"state": {"path": str(tmp_path / "state")}}
            for number, ids in enumerate((["tester", "quiet"], ["tester", "quiet"])):
                fields["observability"] = {"log_content": ids, "slow_first_token": f"{number + 1}s"}
                relay.write(state | fields)
                relay.reload()
                await relay.nth_log(number, lambda line: line["event"] == "reloaded")

            warned = [
                (line["level"], line["notice"]) for line in relay.lines if line["event"] == "notice"
            ]
            assert warned == [
                ("warning", WRITTEN.format("'tester'")),
                ("warning", WRITTEN.format("'tester', 'quiet'")),
            ]


@scenario
async def test_the_demo_key_is_named_and_heard_like_any_other(tmp_path: Path) -> None:
    ids = {"log_content": ["demo", "demo*"]}
    fields = config({"d": {"kind": "demo", "api_keys": []}}, keys=[], observability=ids)
    async with RelayProcess(fields, tmp_path) as relay:
        key = str(relay.ready["demo_key"])
        await relay.chat(key=key, messages=[{"role": "user", "content": "who is there?"}])
        line = await relay.log(lambda line: line["event"] == "content")

        assert (line["key"], line["outcome"]) == ("demo", "ok")
        assert "who is there?" in line["prompt"]
        assert WRITTEN.format("'demo'") in relay.ready["notices"]
        assert key not in json.dumps(told(relay))


@scenario
async def test_a_client_that_reads_slowly_is_waited_for_all_the_same(tmp_path: Path) -> None:
    big = say.delta({"content": "x" * 60_000})
    script = say.sse([big] * 100 + [say.FINISH, say.DONE])
    async with (
        Upstream(script) as upstream,
        RelayProcess(named(upstream, "tester"), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        answer = await client.ask(request("POST", "/v1/chat/completions", chat_body()))
        line = await relay.log(lambda line: line["event"] == "content")

        assert len(answer.text) == 6_000_000
        assert (len(line["answer"]), line["cut"]) == (MOST, True)
