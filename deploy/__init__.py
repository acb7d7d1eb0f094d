"""Monitoring of a running orch: dashboards and alerts, generated from the registry of metrics, and a compose file."""
