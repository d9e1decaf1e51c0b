"""The callers' side: endpoints as Celery tasks, and their results."""
