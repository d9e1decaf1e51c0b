"""``/v1/usage``: what API keys have used."""
