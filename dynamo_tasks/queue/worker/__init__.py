"""Celery's worker on the event loop: consumer, pool, commands, shutdown."""
