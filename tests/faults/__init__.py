"""The proof of the fault matrix: every fault on real sockets, and what must come of it.

- `row.py` says what a row is; the tables are `dials.py` (connections, and members that fail call after call),
  `statuses.py`, `before.py` and `after.py` (the first token), `clients.py` (what clients do wrong).
- `stage.py` plays a whole table against one relay; `verdicts.py` compares what came of it with the row.
- `peers.py` plays the same faults against nginx and HAProxy, `sdks.py` through the official SDKs.
- `leaving.py` measures how soon an upstream is let go, `crosstalk.py` whether streams keep to themselves.
- `figures/` has what is a figure and not a row: recovery, outage.
- `python -m tests.faults` (`make faults`) plays everything many times and writes `docs/faults.md`.
"""
