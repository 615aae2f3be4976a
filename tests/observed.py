"""Records and pages for the tests of everything that observes calls."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families  # noqa: TID251  reads pages

from relay.observe.metrics import Metrics
from relay.records import AttemptRecord, CallRecord
from relay.usage import Usage

STARTED = 1_790_000_000.0
"""2026-09-21T14:13:20Z"""


def streamed(number: int = 1) -> CallRecord:
    """A streamed call that went well."""
    record = CallRecord()
    record.request_id = f"req-{number}"
    record.received = STARTED
    record.key = "shop"
    record.client = "203.0.113.7"
    record.operation = "chat_completions"
    record.model = record.served_model = "chat"
    record.upstream = "main"
    record.stream = True
    record.code = 200
    record.cause = "done"
    record.attempts = (AttemptRecord("main", "ok", 312.5),)
    record.ttft = 0.3
    record.overhead = 0.0004
    record.max_gap = 0.08
    record.duration = 4.2345
    record.events = 40
    record.usage = Usage(input=1000, output=200, cached=600, reasoning=50)
    record.cost = 354_000
    return record


def configured() -> Metrics:
    metrics = Metrics()
    metrics.configure({"chat", "apology"}, {"main", "spare"}, {"shop"}, 0.8)
    return metrics


class Page:
    """The samples of a page by name and labels."""

    def __init__(self, metrics: Metrics) -> None:
        self.text = metrics.render().decode()
        self.families = {
            family.name: family for family in text_string_to_metric_families(self.text)
        }
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, /, **labels: str) -> float | None:
        return self._values.get((name, frozenset(labels.items())))

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(labels) for found, labels in self._values if found == name]
