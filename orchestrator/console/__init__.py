"""The console: pages that show conversations step by step, live or recorded. `orch console` starts it."""
