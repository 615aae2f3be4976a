"""Imports only go down: the rooms of the package, and a guard that keeps their walls.

Every module stands in `ROOMS` with its floor, so that a new one is placed on purpose. An import for the type
checker alone
(`if TYPE_CHECKING:`) does not run and may name a type of an upper floor.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "relay"

ROOMS: dict[int, tuple[str, ...]] = {
    # words
    0: ("errors", "usage", "sse", "chunked", "jsonscan", "gaps", "shapes"),
    # facts
    1: (
        "call",
        "operations",
        "pricing",
        "records",
        "timers",
        "tracecontext",
        "content",
        "chatbody",
        "chatedit",
        "prompts",
        "config",
    ),
    # machines
    2: ("admission", "upstream"),
    # compiled
    3: ("snapshot", "routes", "equipment", "static", "replies"),
    # the hot path
    4: (
        *("proxy", "exchange", "opening", "waits", "bill"),
        *("stream", "passage", "resume", "resumable", "endings", "leaving"),
    ),
    # edges
    5: (
        *("cli", "commands", "__main__", "app", "process", "reload", "banner", "notify"),
        *("following", "revoking", "explain", "keys"),
        *("front", "port", "connection", "heads", "listener", "reception"),
        *("overload", "watch", "cgroup"),
        *("admin", "health", "page", "observe", "workers", "quota", "state", "measure"),
    ),
}
FLOORS = {name: floor for floor, names in ROOMS.items() for name in names}

ONLY_IN = {
    "yaml": {"config.document", "config.edit"},
    "prometheus_client": {"observe.exposition"},
    "opentelemetry": {"observe.otlp"},
}
"""Libraries that one module knows, so that it can be replaced or tested alone."""


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """`admission.gate` for relay/admission/gate.py; a package's own file is the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return module.partition(".")[0]


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from run_time_nodes(node)


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything that running this file imports."""
    for node in run_time_nodes(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor they reach"
            assert node.module is not None
            yield node.module
            if node.module in ("relay", "relay.admission", "relay.upstream"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> Iterator[str]:
    """The modules of the package that this file imports, without the `relay.` in front."""
    for name in imports(path):
        inner = name.removeprefix("relay.")
        if inner != name and room_of(inner) in FLOORS:
            yield inner


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_stands_in_a_room_and_imports_only_downwards(path: Path) -> None:
    module = name_of(path)
    if not module:  # relay/__init__.py: the version, nothing else
        assert not list(imports(path))
        return

    assert room_of(module) in FLOORS, f"place {module} on a floor of ROOMS"
    floor = FLOORS[room_of(module)]
    for other in ours(path):
        if room_of(other) == room_of(module):
            continue
        below = FLOORS[room_of(other)]
        assert below <= floor, f"{module} (floor {floor}) imports {other} (floor {below})"
        sideways = {room_of(module), room_of(other)} == set(ROOMS[2])
        assert not sideways, f"{module} and {other} know each other"


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    known = {name_of(path) for path in modules()}
    edges = {name_of(path): {name for name in ours(path) if name in known} for path in modules()}

    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for other in edges[module]:
                visit(other, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_of_one_module_is_imported_nowhere_else(library: str) -> None:
    users = {
        name_of(path)
        for path in modules()
        if any(name.partition(".")[0] == library for name in imports(path))
    }

    assert users <= ONLY_IN[library]


def test_no_file_of_the_package_is_longer_than_400_lines() -> None:
    long = {
        name_of(path): count
        for path in modules()
        if (count := len(path.read_text("utf-8").splitlines())) > 400
    }

    assert not long
