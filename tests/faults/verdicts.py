"""Compares what came of a case with its row: bytes, log line, counters, bill, memory, and what is still in flight."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import get_args

from relay.routes import FIRST_RATIO
from tests.faults.row import SECRET, Break, Failure, Must, State, Whole
from tests.faults.stage import DAY, Case, Outcome, Round
from tests.rig import scripts as say
from tests.rig.raw_client import Answer, End
from tests.rig.relay_process import Line

BROKE = "The upstream failed before the answer was complete."
WORDS = {
    "idle_timeout": "The upstream stopped sending before the answer was complete.",
    "slow_stream": "The upstream sent nothing but scraps for too long.",
    "total_timeout": "The answer took longer than this server allows.",
}
REPORTED = (say.USAGE["prompt_tokens"], say.USAGE["completion_tokens"])
NOTHING = (0, 0)
OVERHEAD = 8
"""What a message counts beyond its text."""
MESSAGES = json.dumps([{"role": "user", "content": "Say hello."}]).encode()
ESTIMATED = round((len(MESSAGES) + OVERHEAD) * FIRST_RATIO)
"""Input tokens of the usual call when nobody reports any."""

LONG = 90
"""Seconds: no table takes so long to play."""

Complaints = Iterator[str]


def differs(what: str, found: object, wanted: object) -> Complaints:
    if found != wanted:
        yield f"{what}: {str(found)[:300]} instead of {str(wanted)[:300]}"


def saved(case: Case) -> bool:
    """The second member answers in place of the faulty one."""
    must = case.row.must
    if case.setting == "alone" or case.row.both:
        return False
    return case.row.left_out or (isinstance(must, Failure) and must.elsewhere)


def expected(case: Case) -> Must:
    return Whole() if saved(case) else case.row.must


# --- what the client gets -------------------------------------------------------------------------


def client(case: Case, answer: Answer) -> Complaints:
    must = expected(case)
    if SECRET.encode() in answer.body or SECRET in str(answer.headers):
        yield "the upstream's key reached the client"
    if not answer.headers.get("x-request-id"):
        yield "no x-request-id"
    match must:
        case Failure():
            yield from refused(answer, must)
        case Break() if case.mode == "plain":
            yield from differs("status, end", (answer.status, answer.end), (200, broken(answer)))
            # An RST takes along what was still on its way.
            cut = len(answer.body) if must.cause == "upstream_reset" else len(must.seen[0])
            yield from differs("bytes", answer.body, must.seen[0][:cut])
        case Break():
            yield from broken_off(answer, must)
        case Whole():
            yield from differs("status, end", (answer.status, answer.end), (200, End.CLEAN))
            plain = must.plain or json.dumps(say.completion()).encode()
            wanted = must.stream if case.mode == "stream" else plain
            yield from differs("bytes", answer.body, wanted)


def broken(answer: Answer) -> End:
    """A plain answer that breaks off may end by a FIN or an RST: both are seen."""
    return answer.end if answer.end in (End.BROKEN, End.RESET) else End.BROKEN


def refused(answer: Answer, must: Failure) -> Complaints:
    yield from differs("status, end", (answer.status, answer.end), (must.status, End.CLEAN))
    yield from differs("type", answer.headers.get("content-type"), "application/json")
    if not answer.body.startswith(b'{"error":'):
        yield f"no error object: {answer.body[:200]!r}"
        return
    error = answer.error
    yield from differs("code, param", (error["code"], error["param"]), (must.code, must.param))
    for leak in (b"nternal detail", b"<html", b"Traceback"):
        if leak in answer.body:
            yield f"{leak!r} reached the client"
    wait = answer.headers.get("retry-after")
    told = answer.headers.get("x-should-retry")
    if must.status < 500 and must.status != 429:
        yield from differs("x-should-retry, retry-after", (told, wait), (None, None))
        return
    short = wait is not None and int(wait) <= 60
    yield from differs("x-should-retry", told, "true" if short else "false")
    if must.wait is None:
        yield from differs("retry-after", wait, None)
    elif wait is None or not must.wait[0] <= int(wait) <= must.wait[1]:
        yield f"retry-after: {wait}, not within {must.wait}"
    elif not 0 < int(answer.headers["retry-after-ms"]) <= int(wait) * 1000:
        yield f"retry-after-ms: {answer.headers['retry-after-ms']} beside {wait} s"


def broken_off(answer: Answer, must: Break) -> Complaints:
    """Whole events, one error event, no `[DONE]`, no last chunk."""
    yield from differs("status, end", (answer.status, answer.end), (200, End.BROKEN))
    said = answer.body.replace(b": keep-alive\n\n", b"").replace(b": ping\n\n", b"")
    events = [item + b"\n\n" for item in said.split(b"\n\n") if item]
    if not events or not said.endswith(b"\n\n"):
        yield f"half an event: {said[-200:]!r}"
        return
    if must.cause == "total_timeout":
        yield from differs("events", set(events[:-1]), set(must.seen))
    else:
        yield from differs("events", b"".join(events[:-1]), b"".join(must.seen))
    if b"[DONE]" in said:
        yield "[DONE] in a stream that broke off"
    message = must.message or WORDS.get(must.cause, BROKE)
    try:
        error = json.loads(events[-1].removeprefix(b"data: "))["error"]
    except (ValueError, KeyError):
        yield f"no error event: {events[-1][:200]!r}"
        return
    yield from differs("keys", sorted(error), ["code", "message", "param", "type"])
    wanted = (must.code, "server_error", None)
    yield from differs("error", (error["code"], error["type"], error["param"]), wanted)
    if not error["message"].startswith(message):
        yield f"message: {error['message']!r}"


# --- what is logged and billed --------------------------------------------------------------------


def line(outcome: Outcome) -> Complaints:
    case, told = outcome.case, outcome.lines[-1]
    must, answer = expected(case), outcome.answers[-1]
    attempts = [(item["upstream"], item["result"]) for item in told.get("attempts", [])]
    if case.row.both:
        wanted = {case.row.must.result} if isinstance(case.row.must, Failure) else set()
        if not attempts or {result for _, result in attempts} != wanted:
            yield f"attempts: {attempts}"
    else:
        yield from differs("attempts", attempts, tried(case))
    yield from differs("code", told["code"], answer.status)
    yield from differs("outcome", told["outcome"], result_of(must))
    cause = None if isinstance(must, Failure) else must.cause
    if isinstance(must, Whole) and saved(case):
        cause = "done"
    if case.mode == "plain" and isinstance(must, Whole):
        cause = "done"
    yield from differs("cause", told.get("cause"), cause)
    if isinstance(must, Failure):
        yield from differs("error", told.get("error"), must.code)
    yield from differs("bill", billed(told), bill(case, must, told))


def result_of(must: Must) -> str:
    if isinstance(must, Whole):
        return "ok"
    if isinstance(must, Break):
        return "stream_truncated"
    if must.status < 500 and must.status != 429:
        return "client_error"
    return "timeout" if must.status == 504 else "upstream_error"


def tried(case: Case) -> list[tuple[str, str]]:
    """Upstream and result of each attempt of the last call."""
    must, name = case.row.must, case.name
    if saved(case):
        if case.row.left_out:
            return [("good", "ok")]
        assert isinstance(must, Failure)
        return [(name, must.result), ("good", "ok")]
    if isinstance(must, Failure):
        return [(name, must.result)] * must.tries
    if isinstance(must, Break):
        return [(name, must.cause if must.cause != "total_timeout" else "cancelled")]
    return [*((name, result) for result in must.before), (name, must.result)]


def billed(told: Line) -> tuple[int, int, str]:
    found = (told.get("input_tokens", 0), told.get("output_tokens", 0))
    return (*found, told.get("source", ""))


def bill(case: Case, must: Must, told: Line) -> tuple[int, int, str]:
    if isinstance(must, Failure):
        return (*NOTHING, "")
    if isinstance(must, Break):
        if must.tokens is not None:
            return (*must.tokens, must.source)
        return (ESTIMATED, told.get("events", 0), must.source)
    if case.mode == "plain" or saved(case):
        return (*REPORTED, "reported")
    if must.stream_usage is not None:
        return (*must.stream_usage, "reported")
    return (ESTIMATED, told["events"], "estimated")


# --- what is counted and remembered ---------------------------------------------------------------


def counted(outcome: Outcome, page: dict[str, float]) -> Complaints:
    name = outcome.case.name
    attempts = Counter(
        (item["upstream"], item["result"])
        for told in outcome.lines
        for item in told.get("attempts", [])
        if item["upstream"] != "good"
    )
    for (upstream, result), number in attempts.items():
        series = f'relay_upstream_attempts_total{{result="{result}",upstream="{upstream}"}}'
        yield from differs(series, page.get(series, 0), number)
    heard = 0 if outcome.case.row.unheard else sum(attempts.values())
    yield from differs("requests at the faulty upstream", len(outcome.heard), heard)
    good = sum(
        item["upstream"] == "good" for told in outcome.lines for item in told.get("attempts", [])
    )
    yield from differs("requests at the second upstream", outcome.second, good)
    spent = sum(sum(billed(told)[:2]) for told in outcome.lines)
    ratio = page.get(f'relay_key_limit_ratio{{key="{name}",limit="tokens_per_day"}}', 0.0)
    yield from differs("tokens taken from the key", round(ratio * DAY), spent)
    for direction, at in (("input", 0), ("output", 1)):
        series = f'relay_key_tokens_total{{direction="{direction}",key="{name}"}}'
        tokens = sum(int(billed(told)[at]) for told in outcome.lines)
        yield from differs(series, page.get(series, 0), tokens)
    for series in (
        f'relay_upstream_inflight{{upstream="{name}"}}',
        f'relay_inflight_streams{{model="{name}",upstream="{name}"}}',
        f'relay_inflight_streams{{model="{name}",upstream="good"}}',
    ):
        yield from differs(series, page.get(series, 0), 0)


def remembered(case: Case, played: Round) -> Complaints:
    """What the relay thinks of the faulty one now, as gauge and log tell it."""
    must, name = case.row.must, case.name
    found = states(played.page, name)
    if case.row.both:
        return
    wanted: State = must.state if isinstance(must, Failure) else "closed"
    if case.setting == "with second" and case.row.left_as is not None:
        wanted = case.row.left_as
    yield from differs("state as logged", played.told.get(name, "closed"), wanted)
    wait = must.wait[0] if isinstance(must, Failure) and must.wait else LONG
    if wait >= LONG:
        # A shorter one may be over by now.
        yield from differs("state", found, {wanted})


def states(page: dict[str, float], upstream: str) -> set[str]:
    return {
        state
        for state in get_args(State)
        if page.get(f'relay_upstream_state{{state="{state}",upstream="{upstream}"}}')
    }


def earlier(outcome: Outcome) -> Complaints:
    """The calls before the last one."""
    first = outcome.case.row.first
    if outcome.case.setting == "alone" and isinstance(first, Failure):
        answer = outcome.answers[0]
        yield from refused(answer, first)


def complaints(outcome: Outcome, played: Round) -> list[str]:
    """All that is wrong with one case; empty when it went as its row says."""
    found = [
        *client(outcome.case, outcome.answers[-1]),
        *line(outcome),
        *counted(outcome, played.page),
        *remembered(outcome.case, played),
        *earlier(outcome),
    ]
    if outcome.case.name in played.running:
        found.append("the upstream's answer is still under way")
    return found


def sums(played: Round) -> list[str]:
    """What is counted of all cases together."""
    found: list[str] = []
    causes = Counter(
        told["cause"]
        for outcome in played.outcomes
        for told in outcome.lines
        if told.get("cause") is not None and (told["stream"] or told["outcome"] != "ok")
    )
    for cause, number in causes.items():
        series = f'relay_stream_end_total{{cause="{cause}"}}'
        found += differs(series, played.page.get(series, 0), number)
    found += differs("redirects that were followed", played.sink, 0)
    for series, value in played.page.items():
        if series.startswith(("relay_upstream_inflight", "relay_inflight_streams")) and value:
            found.append(f"{series}: {value}")
    if SECRET in played.stderr:
        found.append("the upstream's key stands in the log")
    return found
