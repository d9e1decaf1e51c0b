"""How Celery's messages and results cross Redis: transport, envelope, result backend."""
