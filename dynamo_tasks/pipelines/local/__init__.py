"""Pipelines in threads of this process."""
