"""The dashboards, as code. `python -m grafana` (`make dashboards`) writes them to `grafana/dashboards/`."""
