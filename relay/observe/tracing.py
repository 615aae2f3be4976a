"""Whether calls are traced, which of them, and what OpenTelemetry's own environment variables say about it.

Names and defaults are those of the OpenTelemetry specification. What is none of its values
is told in a sentence and then as if it were not there: a variable that a platform sets for everybody must not keep
a relay from starting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Final, NamedTuple

from relay.tracecontext import Tracer

DEFAULT_SAMPLER: Final = "parentbased_always_on"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_RATIO: Final = "OTEL_TRACES_SAMPLER_ARG"


class Plan(NamedTuple):
    """What the environment asks for."""

    tracer: Tracer | None
    """None: nothing is traced."""
    sampler: str
    notes: list[str]
    """What an operator should know of it, one sentence each."""


def is_installed() -> bool:
    """Whether the extra `otel` is there. Looking imports what contains it, so it is only done for those who ask."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter") is not None
    except ModuleNotFoundError:
        return False


def plan(env: Mapping[str, str], installed: Callable[[], bool] = is_installed) -> Plan:
    """Nothing is traced unless the environment names an OTLP endpoint, or OTLP as the exporter."""
    notes: list[str] = []
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or not _asks(env, notes):
        return Plan(None, "", notes)
    if not installed():
        notes.append("Traces are asked for, but the extra is missing: pip install 'relay[otel]'.")
        return Plan(None, "", notes)
    protocol = next((env[name].strip() for name in _PROTOCOLS if env.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        notes.append(
            "Traces leave by http/protobuf; other values of OTEL_EXPORTER_OTLP_PROTOCOL do nothing."
        )
    name = env.get("OTEL_TRACES_SAMPLER", "").strip() or DEFAULT_SAMPLER
    tracer = _tracer(name, env.get(_RATIO, "").strip(), notes)
    if isinstance(tracer, str):
        return Plan(None, tracer, notes)
    return Plan(tracer, name, notes)


def _asks(env: Mapping[str, str], notes: list[str]) -> bool:
    chosen = env.get("OTEL_TRACES_EXPORTER", "").strip()
    if not chosen:
        return any(env.get(name, "").strip() for name in _ENDPOINTS)
    exporters = [name.strip() for name in chosen.split(",")]
    if any(name not in ("otlp", "none") for name in exporters):
        notes.append("OTEL_TRACES_EXPORTER: the relay knows otlp and none.")
    return "otlp" in exporters


def _tracer(name: str, ratio: str, notes: list[str]) -> Tracer | str:
    """The sampler of this name; its name again if it never takes anything."""
    follows = name.startswith("parentbased_")
    match name.removeprefix("parentbased_"):
        case "always_on":
            return Tracer(follows_parent=follows) if follows else Tracer(1.0, follows_parent=False)
        case "always_off":
            return Tracer(0.0) if follows else name
        case "traceidratio":
            return Tracer(_part(ratio, notes), follows_parent=follows)
    notes.append(f"OTEL_TRACES_SAMPLER is none of OpenTelemetry's: {DEFAULT_SAMPLER} it is.")
    return Tracer()


def _part(text: str, notes: list[str]) -> float:
    try:
        ratio = float(text) if text else 1.0
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        notes.append(f"{_RATIO} must be a number from 0 to 1: 1 it is.")
        return 1.0
    return ratio
