"""The JSON Schema of the configuration, for editors: completion, descriptions, and mistakes marked while typing.

It describes the file as it is written: wherever a number or a chosen word may stand, a `${VARIABLE}` may, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from relay.config.model import Config
from relay.config.types import Section

VARIABLE: Final = {
    "description": "A variable: ${NAME}, or ${NAME:-default}",
    "type": "string",
    "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
}
_NOTES: Final = ("title", "description", "default")


def schema() -> dict[str, Any]:
    made = Config.model_json_schema()
    _write_defaults(made, Config)
    for section in _sections(Section):
        if section.__name__ in made["$defs"]:
            _write_defaults(made["$defs"][section.__name__], section)
    made = _open(made)
    made["$defs"]["Variable"] = VARIABLE
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "config.yaml of relay",
        "description": "Every option of the relay, with its default.",
    }


def render() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _sections(base: type[Section]) -> Iterator[type[Section]]:
    for section in base.__subclasses__():
        yield section
        yield from _sections(section)


def _write_defaults(made: dict[str, Any], section: type[Section]) -> None:
    """Puts every default as it would be written: 10s, not 10.0. Sections have none, their options do."""
    written = section.model_construct().model_dump(mode="json")
    for name, option in made["properties"].items():
        option.pop("default", None)
        if written.get(name) is not None and not isinstance(written[name], dict):
            option["default"] = written[name]


def _open(node: Any) -> Any:
    """A copy in which variables are allowed, without what only the code is interested in."""
    if isinstance(node, list):
        return [_open(one) for one in node]
    if not isinstance(node, dict):
        return node
    # What is in "properties" has names of ours, that may be the same as keywords.
    copy = {
        key: {name: _open(one) for name, one in value.items()}
        if key in ("properties", "$defs")
        else _open(value)
        for key, value in node.items()
        if key != "title"
    }
    if "anyOf" in copy:
        copy["anyOf"] = _flat([one for one in copy["anyOf"] if one != {"type": "null"}])
        if len(copy["anyOf"]) == 1:
            copy |= copy.pop("anyOf")[0]
    elif _reads_variables(copy):
        notes = {key: copy.pop(key) for key in _NOTES if key in copy}
        return {**notes, "anyOf": [copy, {"$ref": "#/$defs/Variable"}]}
    return copy


def _flat(choices: list[Any]) -> list[Any]:
    """Without choices inside choices, and without the same twice."""
    flat: list[Any] = []
    for one in choices:
        inner = one["anyOf"] if set(one) == {"anyOf"} else [one]
        flat += [choice for choice in inner if choice not in flat]
    return flat


def _reads_variables(node: dict[str, Any]) -> bool:
    """A scalar whose schema would refuse the text of a variable."""
    if node.get("type") in ("integer", "number", "boolean"):
        return True
    return bool({"pattern", "enum", "const"} & set(node))
