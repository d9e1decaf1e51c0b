"""Who may come in: API keys, origins, tokens of streams."""
