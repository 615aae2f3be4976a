"""A real Prometheus scrapes real relays: every dashboard shows something, and an alert arrives."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.observe.asked import Asked, empty
from tests.observe.place import Callers, Provider, fields, standing
from tests.observe.watchers import Alertmanager, Prometheus, Webhook, until
from tests.rig import SCALE, RelayProcess, scenario

FACTOR = 60
"""A minute of the rules is a second here."""


@asynccontextmanager
async def in_use(providers: dict[str, Provider], home: Path, workers: int) -> AsyncIterator[str]:
    """A relay under every kind of call; its instance label."""
    async with RelayProcess(fields(providers, workers), home) as relay:
        callers = Callers(relay)
        callers.usual()
        callers.start("narrow", "shop", 20, pause=0.05)
        callers.start("chat", "spender", pause=1)
        try:
            yield "{}:{}".format(*relay.admin)
        finally:
            await callers.stop()


async def all_found(asked: Asked, instance: str) -> None:
    """Returns when every panel and variable finds something; AssertionError names those that do not."""
    left: list[str] = []

    async def whole() -> bool:
        left[:] = await empty(asked, instance)
        return not left

    with contextlib.suppress(AssertionError):
        await until(whole, 30 * SCALE)
    assert left == [], "\n".join(left)


@scenario
async def test_every_query_of_every_dashboard_finds_data_of_one_worker_and_of_several(
    tmp_path: Path,
) -> None:
    homes = [tmp_path / "one", tmp_path / "several"]
    for home in homes:
        home.mkdir()
    async with standing() as providers:
        for name, mood in (
            ("lazy", "slow"),
            ("narrow", "busy"),
            ("fragile", "brittle"),
            ("paced", "throttling"),
            ("lost", "failing"),
        ):
            providers[name].mood = mood
        async with (
            in_use(providers, homes[0], 1) as one,
            in_use(providers, homes[1], 2) as several,
            Prometheus(tmp_path / "prometheus", {"relay": [one, several]}, FACTOR) as prometheus,
        ):
            for instance in (one, several):
                await all_found(prometheus.asked, instance)
            assert await prometheus.asked.exemplars("relay_time_to_first_token_seconds_bucket")


@scenario
async def test_an_upstream_that_dies_is_a_ticket_its_return_is_told_and_a_relay_that_is_gone_is_a_page(
    tmp_path: Path,
) -> None:
    async with standing() as providers, Webhook() as webhook:
        dead = providers["paced"].upstream
        async with RelayProcess(fields(providers, 1), tmp_path) as relay:
            callers = Callers(relay)
            callers.start("paced", "shop", 4, pause=0.05)
            instance = "{}:{}".format(*relay.admin)
            async with (
                Alertmanager(tmp_path / "alertmanager", webhook.url, FACTOR) as alertmanager,
                Prometheus(
                    tmp_path / "prometheus", {"relay": [instance]}, FACTOR, alertmanager.listen
                ),
            ):
                await dead.__aexit__(None, None, None)
                told = await webhook.alert(
                    lambda alert: alert["labels"]["alertname"] == "UpstreamDown"
                )
                await dead.__aenter__()
                over = await webhook.alert(
                    lambda alert: (
                        alert["labels"]["alertname"] == "UpstreamDown"
                        and alert["status"] == "resolved"
                    )
                )
                await callers.stop()
                await relay.stop()
                page = await webhook.alert(
                    lambda alert: alert["labels"]["alertname"] == "RelayDown"
                )
                held = await until(lambda: alertmanager.held_back("RelayInstanceDown"))

        assert told["status"] == "firing"
        assert told["receiver"] == "ticket"
        assert told["labels"] == {
            "alertname": "UpstreamDown",
            "job": "relay",
            "severity": "ticket",
            "upstream": "paced",
        }
        assert told["annotations"]["summary"] == "Upstream paced is down"
        assert told["annotations"]["runbook_url"] == "docs/runbook.md#upstreamdown"
        assert over["labels"] == told["labels"]
        # Another one served meanwhile, so that nobody was woken; without a relay one message is enough.
        assert page["receiver"] == "page"
        assert held
        assert [each["groupLabels"] for each in webhook.told if each["receiver"] == "page"] == [
            {"alertname": "RelayDown"}
        ]
