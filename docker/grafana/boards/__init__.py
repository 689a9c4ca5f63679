"""The four Grafana dashboards, as code: `make boards` writes them as JSON."""
