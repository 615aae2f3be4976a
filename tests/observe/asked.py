"""What the dashboards ask, and what a Prometheus answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deploy.grafana.__main__ import FOLDER
from tests.rig import RawClient
from tests.rig.raw_client import Address, request

RATE_INTERVAL = "10s"
"""Ten scrapes here; Grafana takes four."""


def queries(path: Path) -> Iterator[tuple[str, str]]:
    """Every query of a dashboard, with the title of what asks: panels and annotations."""
    whole = json.loads(path.read_text("utf-8"))
    for note in whole["annotations"]["list"]:
        yield note["name"], note["expr"]
    for panel in whole["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def variables(path: Path) -> Iterator[tuple[str, str]]:
    """Every variable that a dashboard asks for, and `label_values(series, label)`."""
    for variable in json.loads(path.read_text("utf-8"))["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def substituted(query: str, values: Mapping[str, str], interval: str) -> str:
    """As Grafana sends it: `$name` by its value, `.+` (All) if it has none."""
    query = query.replace("$__rate_interval", interval)
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], ".+"), query)


class Asked:
    """A Prometheus, by its HTTP API."""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def get(self, path: str) -> Any:
        """The `data` of an answer. AssertionError with its error otherwise."""
        client = await RawClient.connect(self._address)
        async with client:
            answer = await client.ask(request("GET", path, key=None))
        assert answer.status == 200, answer.body.decode()
        return answer.json()["data"]

    async def values(self, query: str) -> list[float]:
        """What a query finds now, but for what is no number."""
        return [value for _, value in await self.rows(query)]

    async def rows(self, query: str) -> list[tuple[dict[str, str], float]]:
        """As `values`, with the labels of each."""
        data = await self.get(f"/api/v1/query?query={quote(query)}")
        found = [(each["metric"], float(each["value"][1])) for each in data["result"]]
        return [(labels, value) for labels, value in found if not math.isnan(value)]

    async def exemplars(self, series: str) -> set[str]:
        """The request ids that lead from a series to log lines."""
        path = f"/api/v1/query_exemplars?query={quote(series)}&start=0&end=9999999999"
        data = await self.get(path)
        return {each["labels"]["request_id"] for found in data for each in found["exemplars"]}

    async def firing(self) -> list[dict[str, str]]:
        """The labels of each alert that fires now."""
        data = await self.get("/api/v1/alerts")
        return [each["labels"] for each in data["alerts"] if each["state"] == "firing"]

    async def label_values(self, query: str) -> list[str]:
        """As Grafana asks for the values of a variable: `label_values(series, label)`."""
        parts = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
        assert parts is not None, query
        series, label = parts[1], parts[2]
        data: list[str] = await self.get(f"/api/v1/label/{label}/values?match[]={quote(series)}")
        return data


async def empty(asked: Asked, instance: str) -> list[str]:
    """The panels and variables that find nothing for this relay."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        chosen = {"job": "relay", "instance": instance}
        for title, query in queries(path):
            if not await asked.values(substituted(query, chosen, RATE_INTERVAL)):
                found.append(f"{path.stem}: {title}: {query}")
        for name, query in variables(path):
            if not await asked.label_values(substituted(query, chosen, RATE_INTERVAL)):
                found.append(f"{path.stem}: ${name}")
    return found
