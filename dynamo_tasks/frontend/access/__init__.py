"""Access control: API keys, origins, tokens of streams."""
