"""The proof of the fault matrix: every fault on real sockets, and what must come of it.

- `row.py` says what a row is; the tables are `dials.py` (connections), `statuses.py`, `before.py` and `after.py` (the
  first token), `histories.py` (several calls), `clients.py` (what clients do wrong).
- `stage.py` plays a whole table against one relay; `verdicts.py` compares what came of it with the row.
- `peers.py` plays the same faults against nginx and HAProxy, `sdks.py` through the official SDKs.
- `python -m tests.faults` (`make faults`) plays everything many times and writes `docs/faults.md`.
"""
