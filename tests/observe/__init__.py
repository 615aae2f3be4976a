"""`make observe`, and what tests of the shipped rules and dashboards share: a real Prometheus beside a relay."""
