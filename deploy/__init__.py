"""What it takes to watch a running orch: dashboards, alerts, both drawn from the metrics; a compose file."""
