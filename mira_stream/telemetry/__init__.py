"""Every metric, declared once, and its export to Prometheus."""
