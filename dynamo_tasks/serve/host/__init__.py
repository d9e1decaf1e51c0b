"""The program of a process that serves HTTP: ``python -m dynamo_tasks.serve.host``."""
