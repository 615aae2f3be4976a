"""Faults in the admin's words: what the validator says of a model, told of an option in the file.

No message shows the value of a variable or of anything that may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from relay.config.model import Config
from relay.config.values import Substituted, plain

Loc = tuple[str | int, ...]

LONGEST_SHOWN: Final = 60
"""Characters of a wrong value that a message repeats."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing to mend, at a place of the file. Line and column count from 1; 0 is the file as a whole."""

    file: str
    line: int
    column: int
    message: str
    path: str = ""
    """The option, as in `models.deepseek-chat.pool[0].upstream`."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigErrors(Exception):
    """The file cannot be used; every fault in it, in the order of their places."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = sorted(faults)
        super().__init__("\n".join(map(str, self.faults)))


def path_of(loc: Loc) -> str:
    """A place as an admin reads it; a name with dots in it is quoted."""
    parts = []
    for part in loc:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            name = f'"{part}"' if not part or re.search(r"[\s.\[\]]", part) else part
            parts.append(f".{name}" if parts else name)
    return "".join(parts)


def explain(error: ValidationError, data: Any, under: Loc = ()) -> Iterator[tuple[Loc, bool, str]]:
    """Place, whether its name is what is wrong, and sentence, of each thing the validator found in `data`.

    `under` is where `data` would stand in the configuration; places are told without it.
    """
    for detail in error.errors(include_url=False):
        loc: Loc = detail["loc"]
        named = bool(loc) and loc[-1] == "[key]"
        if named:
            loc = loc[:-1]
        unknown = detail["type"] == "extra_forbidden"
        value = str(loc[-1]) if named else _at(data, loc)
        yield (
            loc,
            named or unknown,
            _unknown((*under, *loc)) if unknown else _sentence(detail, value),
        )


# --- unknown names --------------------------------------------------------------------------------


def _unknown(loc: Loc) -> str:
    name, section = str(loc[-1]), _section_at(loc[:-1])
    sentence = f"unknown option '{name}'"
    if section is None:
        return sentence
    close = get_close_matches(name.lower().replace("-", "_"), section.model_fields, n=1)
    if close:
        return f"{sentence}, did you mean '{close[0]}'?"
    for inner, field in section.model_fields.items():
        kind = _step(field.annotation, None)
        if _is_section(kind) and name in kind.model_fields:
            return f"{sentence}, it belongs under '{inner}'"
    return f"{sentence} (there are: {', '.join(section.model_fields)})"


def _section_at(loc: Loc) -> type[BaseModel] | None:
    kind: Any = Config
    for part in loc:
        if _is_section(kind):
            field = kind.model_fields.get(str(part))
            kind = field.annotation if field is not None else None
        else:
            kind = _step(kind, part)
        kind = _step(kind, None)
    return kind if _is_section(kind) else None


def _step(kind: Any, part: str | int | None) -> Any:
    """What an annotation holds at an index or name; without one, the annotation itself without its wrapping."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _step(get_args(kind)[0], part)
    if origin in (Union, UnionType):
        return _step(get_args(kind)[0], part)
    if part is None:
        return kind
    return get_args(kind)[-1] if origin in (list, dict) else None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


# --- wrong values ---------------------------------------------------------------------------------

_KINDS: Final = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a text: put it in quotes",
    "string_too_short": "must not be empty",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be at most {le:,.0f}",
    "missing": "is required",
    "model_type": "must be a mapping of options",
    "dict_type": "must be a mapping of names",
    "list_type": "must be a list",
}
_UNQUOTED: Final = ("int_type", "float_type", "bool_type")
_SHAPES: Final = ("model_type", "dict_type", "list_type")


def _sentence(detail: ErrorDetails, value: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        sentence = str(context["error"])
    elif kind == "literal_error":
        return _choice(re.findall(r"'([^']*)'", context["expected"]), value)
    else:
        sentence = _KINDS.get(kind, detail["msg"]).format(**context)
    if kind in _SHAPES:
        # A text here may be a secret that only lacks its brackets.
        return f"{sentence}, not {_shape(value)}"
    if not sentence.startswith("must be"):
        return sentence
    quoted = kind in _UNQUOTED and type(value) is str and not isinstance(plain(value), str)
    return sentence + _instead(value) + (" in quotes" if quoted else "")


def _choice(choices: list[str], value: Any) -> str:
    listed = ", ".join(choices[:-1]) + f" or {choices[-1]}"
    close = get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    hint = f", did you mean '{close[0]}'?" if close else ""
    return f"must be {listed}{_instead(value)}{hint}"


def _instead(value: Any) -> str:
    """The end of a sentence that says what was written instead."""
    if isinstance(value, Substituted):
        return f", not the value of {value.source}"
    if isinstance(value, str):
        shown = value if len(value) <= LONGEST_SHOWN else value[:LONGEST_SHOWN] + "…"
        return f", not '{shown}'"
    if isinstance(value, bool):
        return f", not {str(value).lower()}"
    if isinstance(value, int | float):
        return f", not {value}"
    return f", not {_shape(value)}"


def _shape(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    return "a text" if isinstance(value, str) else "a single value"


def _at(data: Any, loc: Loc) -> Any:
    """What was written at a place; None if nothing was."""
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data
