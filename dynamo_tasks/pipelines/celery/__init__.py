"""Pipelines on workers: jobs, tasks and services through the queue."""
