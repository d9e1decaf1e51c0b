"""Celery and kombu: application, transport, pool, tasks, results. The only importer of either."""
