"""The dashboards: written here as what they ask and say, made into Grafana's JSON by `python -m deploy.grafana`."""
