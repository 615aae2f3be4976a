"""Two claims put to the test, with the relay and nginx: that streaming costs throughput, and that a client which does
not read costs the others nothing.
"""

from __future__ import annotations

from bench.cases import CALM, per, tools_busy
from bench.figures import Sample
from bench.programs import pause
from bench.rig import Rig, Running
from bench.tools import Load

ANSWERS = (8, 64, 256)
"""Tokens of an answer: one event each when it is streamed."""
STAMP = 41
"""Bytes of text in one event of the stand-in."""
STALLED = 500
FIREHOSE = "events=1000000 first_ms=0 interval_ms=10 pad=40000"
"""4 MB/s."""


def streaming(rig: Rig, running: Running, number: int) -> list[Sample]:
    """The same answer, streamed and in one piece, from an upstream that is never slow: calls per second on one CPU."""
    samples = []
    for tokens in ANSWERS:
        load = Load(32, 3 * rig.pace, warmup=1 * rig.pace)
        rig.standin.say(f"{CALM} events={tokens} pad={STAMP * (tokens - 1)}")
        whole = rig.load(running.target, load)
        rig.standin.say(f"{CALM} events={tokens}")
        load = Load(32, 3 * rig.pace, warmup=1 * rig.pace, streamed=True)
        streamed = rig.load(running.target, load)
        running.rest()
        if not (whole.calls and streamed.calls):
            continue
        figures = {
            "plain_per_s": whole.calls / whole.seconds,
            "streamed_per_s": streamed.calls / streamed.seconds,
            "plain_us": per(whole.watched[0].cpu_s, whole.calls),
            "streamed_us": per(streamed.watched[0].cpu_s, streamed.calls),
            "tools_busy": max(tools_busy(whole), tools_busy(streamed)),
        }
        failed = whole.failed + streamed.failed
        loads = [whole, streamed]
        samples.append(
            Sample("streaming", running.name, number, figures, str(tokens), failed, loads=loads)
        )
    return samples


def stalled(rig: Rig, running: Running, number: int) -> list[Sample]:
    """100 streams at 5,000 events/s, alone and beside 500 clients that ask for 4 MB/s each and never read."""
    rig.standin.say("events=64 first_ms=20 interval_ms=20 tick_ms=0 pad=0")
    seconds = 5 * rig.pace
    readers = Load(100, seconds, warmup=1.5, spread=0.3, streamed=True)
    alone = rig.load(running.target, readers)
    running.rest()
    before = running.rss_kb()
    load = Load(STALLED, 120.0, spread=1.0, streamed=True, never_read=True, asks=FIREHOSE)
    with rig.start_load(running.target, load) as never:
        pause(2.0)
        running.rest()  # until every buffer on the way is full, and the stand-in waits
        beside = rig.load(running.target, readers)
        after = running.rss_kb()
        stuck = never.finish()
    figures = {"kb_per_stalled": (after - before) / STALLED, "held": stuck.held}
    if alone.events and beside.events:
        figures |= {"alone_p99_ms": alone.delay_ms.p99, "beside_p99_ms": beside.delay_ms.p99}
    failed = alone.failed + beside.failed
    return [
        Sample("stalled", running.name, number, figures, "", failed, loads=[alone, beside, stuck])
    ]
