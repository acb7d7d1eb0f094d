"""Reruns recordings with the agent of today: `rerun()`. orchestrator.replay.rerun_report reports the differences."""
