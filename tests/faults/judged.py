"""What a client would make of an answer, whoever gave it: the one yardstick for the relay and the others."""

from __future__ import annotations

import json
import zlib
from typing import Literal

from tests.faults.row import SECRET, Mode, Row, Whole
from tests.rig import scripts as say
from tests.rig.raw_client import Answer, End

Verdict = Literal["answer", "error", "broken", "looks whole", "wrong", "leak", "closed", "hang"]

MEANING: dict[Verdict, str] = {
    "answer": "a full, correct answer",
    "error": "an honest error: a status of 400 or more, or an error event",
    "broken": "a 200, then a visible break: the body has no end",
    "looks whole": "a 200, tokens, and the clean end of a stream that is not whole",
    "wrong": "a success that is no answer (HTML, a redirect, nothing, half an answer)",
    "leak": "the upstream's key in the answer",
    "closed": "the connection closed without an answer",
    "hang": "no end within 15 seconds",
}


def verdict(row: Row, mode: Mode, answer: Answer | None, hung: bool = False) -> Verdict:
    """`answer` is None when there was none."""
    if hung:
        return "hang"
    if answer is None:
        return "closed"
    if SECRET.encode() in answer.body or SECRET in str(answer.headers):
        return "leak"
    if answer.status >= 400:
        return "error"
    if not 200 <= answer.status < 300:
        return "wrong"
    try:
        body = decoded(answer)
    except (ValueError, zlib.error):
        # The client's own decoder raises.
        return "broken"
    full = body in whole(row, mode)
    if full and body.endswith(say.DONE):
        # Clients stop reading here.
        return "answer"
    if answer.end in (End.BROKEN, End.RESET):
        return "broken"
    if full:
        return "answer"
    if mode == "plain" or b"data: {" not in body:
        return "wrong"
    return "error" if b'data: {"error"' in body else "looks whole"


def decoded(answer: Answer) -> bytes:
    """As clients do it, who take what there is of a body that stops short. Raises ValueError and zlib.error."""
    coding = answer.headers.get("content-encoding", "identity")
    if coding == "identity":
        return answer.body
    if coding not in ("gzip", "deflate"):
        raise ValueError(coding)
    return zlib.decompressobj(wbits=31 if coding == "gzip" else 15).decompress(answer.body)


def whole(row: Row, mode: Mode) -> list[bytes]:
    """Bodies that are the full answer: the healthy upstream's, or what this row's upstream says."""
    must = row.must if isinstance(row.must, Whole) else Whole()
    if mode == "plain":
        return [must.plain or json.dumps(say.completion()).encode()]
    told = say.usage_event()
    healthy = b"".join(say.EVENTS)
    return [must.stream, healthy, must.stream + told, healthy.replace(say.DONE, told + say.DONE)]
