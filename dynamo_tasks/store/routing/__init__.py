"""State that the routers of a namespace share: their choices, the sessions of clients."""
