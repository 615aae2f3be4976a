"""Charts drawn by hand as SVG: readable in light and dark, without a library. A PNG needs the extra `chart`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Final

from relay.commands.terms import Failure, note

WIDTH: Final = 760
KINDS: Final = (".svg", ".png")

LIGHT: Final = (
    *("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf8700", "#cf222e", "#0e7490", "#9a6e8a"),
    "#8c959f",
)
DARK: Final = (
    *("#58a6ff", "#f0883e", "#3fb950", "#a371f7", "#d29922", "#f85149", "#39c5cf", "#d2a8c0"),
    "#6e7681",
)
"""The last one is that of the others."""
COLOURS: Final = len(LIGHT) - 1
"""Without that of the others; as classes `c0`, `c1`, …"""


def svg(caption: str, width: int, height: int, parts: Iterable[str], more: str = "") -> str:
    """A whole picture under its caption; `more`: style sheet lines of its own."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" aria-label="{escape(caption)}">\n'
        f"<style>{_style()}{more}</style>\n"
        f'<rect width="{width}" height="{height}" class="paper"/>\n'
        f'<text x="12" y="24" class="title">{escape(caption)}</text>\n'
        + "\n".join(part for part in parts if part)
        + "\n</svg>\n"
    )


def _style() -> str:
    """Both palettes in full: not every renderer knows variables."""
    light = "".join(f"  .c{at} {{ fill: {colour}; }}\n" for at, colour in enumerate(LIGHT))
    dark = "".join(f"    .c{at} {{ fill: {colour}; }}\n" for at, colour in enumerate(DARK))
    return (
        "\n  text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif;"
        " fill: #1f2328; }\n"
        "  .paper { fill: #ffffff; }\n"
        "  .title { font-size: 14px; font-weight: 600; }\n"
        "  .soft { fill: #656d76; font-size: 11px; }\n"
        "  .rule { stroke: #d8dee4; }\n"
        f"{light}"
        "  @media (prefers-color-scheme: dark) {\n"
        "    text { fill: #e6edf3; }\n"
        "    .paper { fill: #0d1117; }\n"
        "    .soft { fill: #8d96a0; }\n"
        "    .rule { stroke: #30363d; }\n"
        f"{dark}"
        "  }\n"
    )


def save(picture: str, path: Path) -> None:
    """Writes it as what the name says, and says where it is. Raises Failure where a PNG cannot be made."""
    if path.suffix.lower() == ".svg":
        path.write_text(picture, "utf-8")
    else:
        path.write_bytes(_png(picture))
    note(f"the chart is in {path}")


def _png(picture: str) -> bytes:
    try:
        renderer = import_module("resvg_py")
    except ImportError:
        raise Failure(
            "a PNG needs the extra `chart` (pip install 'relay[chart]'); an SVG does not"
        ) from None
    return bytes(renderer.svg_to_bytes(svg_string=picture, zoom=2.0))


def chart_path(text: str) -> Path:
    """Of an option."""
    path = Path(text)
    if path.suffix.lower() not in KINDS:
        raise argparse.ArgumentTypeError(f"'{text}' must end in {' or '.join(KINDS)}")
    return path
