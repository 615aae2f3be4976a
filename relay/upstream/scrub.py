"""Takes what must not leave the house out of an upstream's words: keys, host names, account ids.

The promise: no piece of a known secret of eight characters or more survives, in any letter case, also percent-encoded
(once or more), as JSON or HTML escapes, or partly masked. Beyond the known secrets, whatever has the shape of a
credential or of an account id goes too, because resellers quote the keys of *their* upstreams. Removing too much is a
blemish, too little is a leak. All scans are linear: an upstream may send any text, and a client may have written it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST = 2_000
"""Characters of an upstream's message that reach a client."""
PIECE = 8
"""Characters: the shortest piece of a secret that must not survive."""
_SHORTEST_SECRET = 4
"""Characters: shorter ones are placeholders (`x`, `-`), and removing them would eat the sentence."""
_READ = 3 * LONGEST
"""Characters looked at: enough to fill `LONGEST` when much is removed, few enough for the loop."""

_SHOWN = 3
"""Characters beside an ellipsis that tell a masked key from a sentence that trails off."""

REMOVED = "[removed]"

_ESCAPE = re.compile(
    r"%(?:25)*(?P<percent>[0-9a-fA-F]{2})|\\u(?P<json>[0-9a-fA-F]{4})|\\(?P<plain>[/\"'\\])"
    r"|&#(?P<decimal>[0-9]{1,5});|&#[xX](?P<html>[0-9a-fA-F]{1,4});"
)
_WORD = "abcdefghijklmnopqrstuvwxyz0123456789_-"
_TOKEN = _WORD + "+/=%~.*\u2022\u25cf\u2026"
_HOST = _WORD + ".@"
_REACH = 256
"""Characters that a find may grow to each side; what is longer is found again further on."""
_URL_REST = re.compile(r"[^\s\"'<>()\[\]{}]*")

_MASK = re.compile(r"[*\u2022\u25cf]{3,}")
_PERHAPS_MASK = re.compile(r"[*\u2022\u25cf]+|\u2026|\.{2,}|x{3,}|#{2,}|_{3,}")
_SHAPES = re.compile(
    r"\bbearer\s{1,8}(?P<bearer>[^\s\"',;]+)"
    r"|\b(?:sk|rk|pk|ak|gsk|xai|pplx|nvapi|hf|ghp|glpat|xox[abp])[-_][\w-]{8,}"
    r"|\b(?:akia[0-9a-z]{12,}|aiza[\w-]{20,}|eyj[\w-]{16,}(?:\.[\w-]+)*)"
    r"|\b(?:org|proj|acct|user|team|tenant|cus|ws|wrkspc)[-_](?=[a-z]{0,64}[0-9])[a-z0-9]{6,}"
    r"|\b(?:account|organi[sz]ation|org|project|team|tenant|workspace|customer)(?:[ _-]?id)?"
    r"[\"'`: =#(]{1,4}(?P<account>(?=[\w@.-]{6})(?=[a-z_@.-]{0,64}[0-9@])[\w@.-]+)"
    r"|(?<![\d.])(?P<address>[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?::[0-9]{1,5})?)(?![\d.])"
)
"""Matched against lower-cased text."""
_SECOND_LEVEL = frozenset({"ac", "co", "com", "edu", "gov", "net", "org"})
"""Under a two-letter country these are not a company's name (`co.uk`)."""

_Span = tuple[int, int]


class Scrubber:
    """Knows the secrets and hosts of one snapshot, as pieces; immutable, lives as long as the snapshot."""

    __slots__ = ("_heads", "_hosts", "_pieces", "_short", "_tails")

    def __init__(self, secrets: Iterable[str], hosts: Iterable[str] = ()) -> None:
        known: set[str] = set()
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                known |= {_lower(secret), _View(secret).text}
        self._pieces = frozenset(s[i : i + PIECE] for s in known for i in range(len(s) - PIECE + 1))
        self._heads = frozenset(s[:n] for s in known for n in range(_SHOWN, len(s)))
        self._tails = frozenset(s[-n:] for s in known for n in range(_SHOWN, len(s)))
        self._short = _either(rf"(?<!\w){re.escape(s)}(?!\w)" for s in known if len(s) < PIECE)
        self._hosts = _either(_host_pattern(host.lower()) for host in hosts if host)

    def __call__(self, text: str, limit: int = LONGEST) -> str:
        """`text` without what must not be told, at most `limit` characters."""
        # A secret that the cut goes through keeps less than a piece, or is found.
        text = text[:_READ]
        view = _View(text)
        spans = [view.origin(span) for span in self._find(view.text)]
        if view.decoded:
            spans += self._known(_lower(text))
        return _cut_out(text, spans)[:limit]

    def _find(self, text: str) -> Iterator[_Span]:
        yield from self._known(text)
        yield from self._masked(text)
        for found in _SHAPES.finditer(text):
            yield found.span(found.lastgroup or 0)
        if self._hosts is not None:
            for found in self._hosts.finditer(text):
                start = _before(text, found.start(), _HOST)
                if text.endswith("://", 0, start):
                    start = _before(text, start - 3, _WORD)
                rest = _URL_REST.match(text, found.end())
                yield start, rest.end() if rest is not None else found.end()

    def _known(self, text: str) -> Iterator[_Span]:
        pieces = self._pieces
        after = 0
        for i in range(len(text) - PIECE + 1):
            if i >= after and text[i : i + PIECE] in pieces:
                end = _after(text, i + PIECE, _TOKEN)
                # Not `end` itself: a token longer than the reach goes on.
                after = end - PIECE + 1
                yield _before(text, i, _TOKEN), end
        if self._short is not None:
            for found in self._short.finditer(text):
                yield found.span()

    def _masked(self, text: str) -> Iterator[_Span]:
        end = 0
        for found in _MASK.finditer(text):
            if found.end() > end:
                end = _after(text, found.end(), _TOKEN)
                yield _before(text, found.start(), _TOKEN), end
        for found in _PERHAPS_MASK.finditer(text):
            start = _before(text, found.start(), _WORD)
            end = _after(text, found.end(), _WORD)
            head, tail = text[start : found.start()], text[found.end() : end]
            if head in self._heads or tail in self._tails:
                yield start, end


class _View:
    """A text as it reads with its escapes resolved and lower-cased, and the way back to the original."""

    __slots__ = ("_ends", "_starts", "decoded", "text")

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        letters: list[str] = []
        position = 0
        for found in _ESCAPE.finditer(text):
            self._copy(letters, text, position, found.start())
            letters.append(_meaning(found))
            self._starts.append(found.start())
            self._ends.append(found.end())
            position = found.end()
        self.decoded = position > 0
        if self.decoded:
            self._copy(letters, text, position, len(text))
        self.text = _lower("".join(letters) if self.decoded else text)

    def _copy(self, letters: list[str], text: str, start: int, end: int) -> None:
        letters.extend(text[start:end])
        self._starts.extend(range(start, end))
        self._ends.extend(range(start + 1, end + 1))

    def origin(self, span: _Span) -> _Span:
        start, end = span
        if not self.decoded or start >= end:
            return span
        return self._starts[start], self._ends[min(end, len(self._ends)) - 1]


def _meaning(escape: re.Match[str]) -> str:
    kind = escape.lastgroup or "plain"
    digits = escape[kind]
    if kind == "plain":
        return digits
    return chr(int(digits, 10 if kind == "decimal" else 16))


def _lower(text: str) -> str:
    """Lower case of the same length: a letter that became two would shift all that follows."""
    if text.isascii():
        return text.lower()
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def _before(text: str, start: int, letters: str) -> int:
    """Where the run of `letters` that ends at `start` begins."""
    reach = text[max(0, start - _REACH) : start]
    return start - len(reach) + len(reach.rstrip(letters))


def _after(text: str, end: int, letters: str) -> int:
    """Where the run of `letters` that begins at `end` ends."""
    reach = text[end : end + _REACH]
    return end + len(reach) - len(reach.lstrip(letters))


def _either(patterns: Iterable[str]) -> re.Pattern[str] | None:
    distinct = sorted(set(patterns))
    return re.compile("|".join(distinct)) if distinct else None


def _cut_out(text: str, spans: list[_Span]) -> str:
    kept = []
    position = 0
    for start, end in sorted(spans):
        if end <= position:
            continue
        if start > position or position == 0:
            kept += [text[position:start], REMOVED]
        position = end
    kept.append(text[position:])
    return "".join(kept)


def _host_pattern(host: str) -> str:
    """All hosts of the same owner: an upstream's help pages name it as well as its API does."""
    if host.replace(".", "").isdigit() or ":" in host:
        return rf"(?<![\w.]){re.escape(host)}(?![\w.])"
    labels = host.split(".")
    if len(labels) == 1:
        # A bare name (`vllm`, `localhost`) is also a word: only where it stands as a host.
        name = re.escape(host)
        return rf"(?:://|@|\bhost=['\"]?){name}\b|\b{name}(?=:[0-9])"
    keep = 3 if len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL else 2
    return re.escape(".".join(labels[-keep:])) + r"(?![\w-])"
