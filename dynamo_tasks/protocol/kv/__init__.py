"""KV caches between processes: names of their blocks, reports of their changes."""
