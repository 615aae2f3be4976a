"""Writes `docs/faults.md` from what was measured."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.faults.figures.page import sections
from tests.faults.judged import MEANING
from tests.faults.measured import Data, survived, truncations

WIDTH = 120

HEAD = """\
# Faults

What the relay makes of {rows} faults of upstreams, on real sockets, each as a streamed and as a plain call, with a
healthy second upstream and without one, and of what clients do wrong. nginx and HAProxy meet the same faults beside it.

Written by `{command}` with relay {version} (Python {python}).

Every cell was the same in all of its repetitions unless it says how often it was not. What has to come of a fault is
a row of a table in `tests/faults/`, and `make test` plays each once: the client's bytes, the log line, the metrics, the
bill, what is remembered of the upstream, and that nothing is left in flight.

"""

KINDS: tuple[tuple[str, Callable[[Data], bool]], ...] = (
    ("a fault before the first token", lambda each: bool(each["elsewhere"])),
    ("a break after it", lambda each: each["kind"] == "Break"),
    ("the client's own fault", lambda each: each["kind"] == "Failure" and not each["elsewhere"]),
    ("odd, but whole", lambda each: each["kind"] == "Whole"),
)


def _wrapped(line: str) -> str:
    """Prose at the width of the other pages; tables and lists stay as they are."""
    if len(line) <= WIDTH or line.startswith(("|", "#", "- ")):
        return line
    return textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False)


def render(data: Data) -> str:
    parts = [HEAD.format(rows=len(_rows(data["matrix"]["cases"])), **data["about"])]
    parts += ["## Sums\n\n", *_sums(data)]
    if "peers" in data:
        parts += _legend()
    if "figures" in data:
        parts += sections(data["figures"])
    parts += _matrix(data)
    for name, make in (
        ("clients", _clients),
        ("leaving", _leaving),
        ("sdks", _sdks),
        ("crosstalk", _crosstalk),
    ):
        if name in data:
            parts += make(data[name])
    return "\n".join(map(_wrapped, "".join(parts).rstrip("\n").split("\n"))) + "\n"


def _rows(cases: Iterable[Data]) -> list[str]:
    return list(dict.fromkeys(each["row"] for each in cases))


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"


def _table(head: str, lines: Iterable[Iterable[str]]) -> Iterator[str]:
    yield head + "\n"
    yield "|" + "---|" * (head.count("|") - 1) + "\n"
    for cells in lines:
        yield "| " + " | ".join(cells) + " |\n"
    yield "\n"


# --- sums -----------------------------------------------------------------------------------------


def _sums(data: Data) -> Iterator[str]:
    matrix = data["matrix"]
    cases = matrix["cases"]
    played, whole = survived(cases, lambda each: each["verdicts"])
    kinds = len({(e["row"], e["mode"]) for e in cases if e["elsewhere"]})
    yield (
        f"- Faults before the first token, with a healthy second upstream: {_share(whole, played)} calls got a full, "
        f"correct answer ({kinds} faults × {matrix['times']}).\n"
    )
    total, looks = truncations(matrix)
    yield f"- Answers cut off after the first token that look whole: {_share(looks, total)}.\n"
    if "sdks" in data:
        clients = data["sdks"]["clients"].values()
        streams = sum(each["streams"] for each in clients)
        looked = sum(each["whole"] for each in clients)
        yield (
            f"- The same through the official SDKs, Node's fetch and curl: {_share(looked, streams)} broken streams "
            f"were taken for whole.\n"
        )
    yield (
        f"- Calls played: {matrix['calls']:,}; cases that were not in every respect as their row says: "
        f"{len(matrix['wrong'])}.\n"
    )
    if "crosstalk" in data:
        told = data["crosstalk"]
        yield f"- Streams with foreign bytes: {_share(len(told['foreign']), told['streams'])}.\n"
    if "leaving" in data:
        worst = max(each["p99"] for each in data["leaving"]["phases"].values())
        n = sum(each["n"] for each in data["leaving"]["phases"].values())
        yield f"- Client gone to upstream let go, p99 of the worst phase: {worst:.1f} ms ({n:,} clients).\n"
    yield from _compared(data)


def _compared(data: Data) -> Iterator[str]:
    """The same question to all three: the faults that both others can be pointed at."""
    if "peers" not in data:
        return
    yield "\nWhat a client gets with a faulty and a healthy upstream, in % of the calls of each:\n\n"
    found = data["peers"]["peers"]
    titles = {title for each in found.values() for title in each["verdicts"]}
    cases = [
        each
        for each in data["matrix"]["cases"]
        if each["setting"] == "with second" and _title(each) in titles
    ]
    lines = []
    for name in ("relay", *found):
        for label, fits in KINDS:
            sums: Counter[str] = Counter()
            for each in cases:
                if fits(each):
                    sums.update(_verdicts_of(name, each, found))
            lines.append([label, name, f"{sum(sums.values()):,}", *_percent(sums)])
    lines.sort(key=lambda line: [label for label, _ in KINDS].index(line[0]))
    yield from _table(f"| What the upstream does | | N | {' | '.join(MEANING)} |", lines)
    for name, each in found.items():
        left = each["left"]
        if left:
            rows = ", ".join(sorted({title.split(", ")[0] for title in left}))
            yield f"{name} kept a connection for the next call after an answer that was not framed right: {rows}.\n\n"


def _percent(sums: Counter[str]) -> list[str]:
    total = sum(sums.values()) or 1
    return [f"{100 * sums[word] / total:.0f}" if sums[word] else "" for word in MEANING]


def _title(each: Data) -> str:
    return f"{each['row']}, {each['mode']}, {each['setting']}"


def _verdicts_of(name: str, each: Data, found: Data) -> dict[str, int]:
    verdicts: dict[str, int] = (
        each["verdicts"] if name == "relay" else found[name]["verdicts"].get(_title(each), {})
    )
    return verdicts


def _legend() -> Iterator[str]:
    words = ". ".join(f"*{word}*: {meaning}" for word, meaning in MEANING.items())
    yield (
        f"{words}.\n\nnginx has `proxy_buffering off`, HTTP/1.1, `proxy_next_upstream` as it comes, and "
        "`max_fails=0`, so that it meets the fault each time; HAProxy has two servers, three retries and "
        "`option redispatch`. Both wait one second for an upstream. Neither is made to know what an answer is: that is "
        "what the columns show.\n\n"
    )


# --- upstream faults ------------------------------------------------------------------------------


def _matrix(data: Data) -> Iterator[str]:
    peers = data.get("peers", {}).get("peers", {})
    yield "## Faults of upstreams\n\n"
    yield (
        f"Each cell: {data['matrix']['times']} calls (N). *With a second* and *alone* are what the client of the relay "
        "saw; *attempts* those of a call without a second, and *ms* the median of its time.\n\n"
    )
    versions = [f"{name} {each['version']}" for name, each in peers.items()]
    head = "| Fault | Call | With a second | Alone | Attempts | ms |"
    head += "".join(f" {name} |" for name in versions)
    groups: dict[str, list[Data]] = {}
    for each in data["matrix"]["cases"]:
        groups.setdefault(each["group"], []).append(each)
    for group, cases in groups.items():
        yield f"### {group[0].upper()}{group[1:]}\n\n"
        yield from _table(head, _lines(cases, peers))


def _lines(cases: list[Data], peers: Data) -> Iterator[list[str]]:
    """A line for each row, or one for each mode where they differ."""
    by_row: dict[str, dict[str, list[str]]] = {}
    for each in cases:
        if each["setting"] == "alone":
            continue
        alone = next(
            other
            for other in cases
            if (other["row"], other["mode"], other["setting"])
            == (each["row"], each["mode"], "alone")
        )
        cells = [
            _cell(each["saw"]),
            _cell(alone["saw"]),
            _cell(alone["attempts"]),
            f"{alone['ms']:.0f}" if alone["ms"] is not None else "",
            *(_cell(_verdicts_of(name, each, peers)) for name in peers),
        ]
        by_row.setdefault(each["row"], {})[each["mode"]] = cells
    for row, modes in by_row.items():
        stream, plain = modes.get("stream"), modes.get("plain")
        if stream and plain and stream[:3] + stream[4:] == plain[:3] + plain[4:]:
            yield [_escaped(row), "both", *stream]
        else:
            for mode, cells in modes.items():
                yield [_escaped(row), mode, *cells]


def _cell(counts: dict[str, int]) -> str:
    if not counts:
        return "–"
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{word} ({n})" for word, n in sorted(counts.items(), key=lambda x: -x[1]))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("b''", "``").replace("_", "\\_")


# --- the others -----------------------------------------------------------------------------------


def _clients(data: Data) -> Iterator[str]:
    yield "## Faults of clients\n\n"
    yield (
        f"N = {data['times']} each, against one relay; after every one an ordinary call was served. "
        f"Not as their row says: {len(data['wrong'])}.\n\n"
    )
    lines = [
        [each["group"], _escaped(name), _cell(each["saw"]), str(each["calls"] // data["times"])]
        for name, each in data["rows"].items()
    ]
    yield from _table("| Kind | What is sent | Answers | Upstream calls |", lines)


def _leaving(data: Data) -> Iterator[str]:
    yield "## Clients that leave\n\n"
    yield (
        "From the client's FIN, RST or half-close to the end of the upstream's connection, in milliseconds (a third of "
        "the clients each); of a queued call to its log line, which waits up to 50 ms for others. Records that were "
        f"not right: {len(data['wrong'])}.\n\n"
    )
    lines = [
        [phase, f"{each['n']:,}", *(f"{each[name]:.1f}" for name in ("p50", "p99", "max"))]
        for phase, each in data["phases"].items()
    ]
    yield from _table("| Phase of the call | N | p50 | p99 | max |", lines)


def _sdks(data: Data) -> Iterator[str]:
    yield "## Broken streams through every client\n\n"
    yield (
        f"{data['modes']} ways to break a stream off, {data['times']} times each. An SDK has to raise its own error "
        "with the relay's code after all events that came before; fetch has to reject, curl to end with 18.\n\n"
    )
    lines = [
        [name, f"{each['streams']:,}", str(each["whole"]), str(len(each["wrong"]))]
        for name, each in data["clients"].items()
    ]
    yield from _table("| Client | Streams | Taken for whole | Otherwise wrong |", lines)


def _crosstalk(told: dict[str, Any]) -> Iterator[str]:
    yield "## Cross-talk\n\n"
    yield (
        f"{told['streams']:,} streams over kept connections, 64 at a time, {told['events']:,} events, "
        f"{told['bytes']:,} bytes, every event with the tag of its own stream, compared byte by byte: "
        f"{told['whole']:,} whole, {told['broken']:,} broken off by the upstream (FIN or RST at any byte), "
        f"{told['left']:,} left by the client, {told['refused']:,} refused. Streams with a byte that was not theirs: "
        f"{len(told['foreign'])}. Left in flight: {told['in flight']:.0f}. "
        f"It took {told['seconds']:.0f} s.\n\n"
    )
