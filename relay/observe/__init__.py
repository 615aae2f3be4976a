"""What the relay shows: observers of ended calls (`metrics`, `accesslog`), its own log (`logs`), and how lines leave.

`families` declares every series, `tallies` counts, `exposition` renders; `sources` is the view of the running parts.
"""
