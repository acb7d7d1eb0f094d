"""The runtime: everything around the pure session core, such as nodes, shards, effects and Redis Streams."""
