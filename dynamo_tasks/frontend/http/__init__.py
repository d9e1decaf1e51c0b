"""HTTP below the application: connections, framing, limits."""
