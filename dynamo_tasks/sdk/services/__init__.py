"""Services: the declared class and its settings."""
