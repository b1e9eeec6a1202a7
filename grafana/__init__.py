"""Dashboards as code: `python -m grafana.build` writes `grafana/generated/*.json`, which Grafana loads."""
