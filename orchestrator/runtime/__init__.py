"""The runtime: the shell around the session core, on Redis Streams."""
