"""``/v1/batches``: what their clients ask for."""
