"""`python -m deploy.grafana` writes the dashboards, one file each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deploy.grafana import internals, keys, overview, upstreams
from deploy.grafana.panels import Dashboard, render

FOLDER = Path(__file__).parent / "dashboards"

DASHBOARDS: tuple[Dashboard, ...] = (
    overview.DASHBOARD,
    upstreams.DASHBOARD,
    keys.DASHBOARD,
    internals.DASHBOARD,
)


def written(dashboard: Dashboard) -> str:
    """The file of a dashboard, as it stands in the repository."""
    return json.dumps(render(dashboard), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(written(dashboard), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
