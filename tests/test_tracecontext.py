from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.tracecontext import Tracer, new_span, read

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_good_traceparent_is_read_and_travels_on_as_it_came() -> None:
    parent = read([GOOD], ["a=1,b=2", "c@vendor=x y"])

    assert parent is not None
    assert (parent.trace_id, parent.span, parent.sampled) == (TRACE, int(SPAN, 16), True)
    want = f"traceparent: {GOOD}\r\ntracestate: a=1,b=2,c@vendor=x y\r\n"
    assert parent.lines == want.encode()


@pytest.mark.parametrize(
    "value",
    [
        *("", "00", GOOD.upper(), GOOD + "-", GOOD + "-more", GOOD[:-1], " " + GOOD),
        *(f"ff-{TRACE}-{SPAN}-01", f"0g-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-0x"),
        *(f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[1:]}-{SPAN}-01"),
        *(GOOD + "\n", GOOD.replace("-", "_"), f"01-{TRACE}-{SPAN}-01more", f"00-{TRACE}-{SPAN}"),
        *("٠٠" + GOOD[2:], f"01-{TRACE}-{SPAN}-01-" + "x" * 300),
    ],
)
def test_a_malformed_traceparent_is_none_and_takes_its_state_along(value: str) -> None:
    assert read([value], ["a=1"]) is None


def test_two_traceparents_are_none() -> None:
    assert read([GOOD, GOOD], []) is None
    assert read([], ["a=1"]) is None


def test_a_later_version_may_say_more() -> None:
    parent = read([f"01-{TRACE}-{SPAN}-03-more"], [])

    assert parent is not None
    assert parent.sampled
    assert parent.lines == f"traceparent: 01-{TRACE}-{SPAN}-03-more\r\n".encode()


@pytest.mark.parametrize("flags", ["00", "02", "fe"])
def test_a_parent_is_sampled_by_its_last_bit_alone(flags: str) -> None:
    parent = read([f"00-{TRACE}-{SPAN}-{flags}"], [])

    assert parent is not None
    assert not parent.sampled


@pytest.mark.parametrize(
    "states",
    [
        ["nothing"],
        ["A=1"],
        ["a=1=2"],
        ["a="],
        ["a=\x01"],
        ["=1"],
        ["a=1,b"],
        [",".join(f"k{n}=1" for n in range(33))],
        ["a=" + "x" * 257],
        [f"k{n}=" + "x" * 200 for n in range(12)],
        [" , "],
    ],
)
def test_a_malformed_tracestate_does_not_travel_and_the_traceparent_does(states: list[str]) -> None:
    parent = read([GOOD], states)

    assert parent is not None
    assert parent.lines == f"traceparent: {GOOD}\r\n".encode()


@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_whatever_is_sent_nothing_raises_and_no_line_is_smuggled_in(
    parents: list[str], states: list[str]
) -> None:
    for values in (parents, [GOOD]):
        parent = read(values, states)

        if parent is not None:
            assert parent.lines.count(b"\r\n") == 1 + bool(parent.state)
            assert parent.lines.count(b"\n") == parent.lines.count(b"\r\n")


def test_a_traced_call_goes_on_with_the_clients_trace_and_spans_of_its_own() -> None:
    trace = Tracer().begin(read([GOOD], ["a=1"]))

    assert trace is not None
    assert (trace.trace_id, trace.parent) == (TRACE, int(SPAN, 16))
    assert trace.span not in (0, trace.parent)
    assert (
        trace.lines(0xAB)
        == f"traceparent: 00-{TRACE}-{'ab':0>16}-01\r\ntracestate: a=1\r\n".encode()
    )
    assert read([f"00-{TRACE}-{new_span():016x}-01"], []) is not None


def test_a_client_that_does_not_sample_is_not_traced_unless_it_is_not_asked() -> None:
    parent = read([f"00-{TRACE}-{SPAN}-00"], [])

    assert Tracer().begin(parent) is None
    assert Tracer(follows_parent=False).begin(parent) is not None


def test_a_client_that_samples_is_traced_whatever_the_ratio_of_our_own() -> None:
    parent = read([GOOD], [])

    assert Tracer(0.0).begin(parent) is not None
    assert Tracer(0.0, follows_parent=False).begin(parent) is None
    assert Tracer(0.0).begin(None) is None


def test_a_ratio_takes_about_that_part_of_the_traces_that_begin_here() -> None:
    tracer = Tracer(0.25)

    taken = [trace for _ in range(4000) if (trace := tracer.begin(None)) is not None]

    assert 800 < len(taken) < 1200
    assert len({trace.trace_id for trace in taken}) == len(taken)
    assert all(trace.parent == 0 for trace in taken)
