"""The way of Celery's messages and results through Redis: transport, envelope, result backend."""
