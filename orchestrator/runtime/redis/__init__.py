"""Everything that talks to Redis: connections, names of keys, scripts, commits, logs, the embedded server."""
