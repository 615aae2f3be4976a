"""Benchmarks that people can run: the relay against its peers, in one run, on one machine. README.md says how.

`tools/` has the stand-in upstream and the load generator (C); `peers/` says how each program is found, configured and
started; `cases.py`, `claims.py` and `growth.py` say what is measured; `run.py` plays the rounds; `figures.py` makes
medians of ratios of them; `report.py` and `plot.py` write `docs/benchmarks.*`.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

CACHE = ROOT / ".cache" / "bench"
"""Compiled tools, the peers' environments and a run's scratch files; git ignores it."""
