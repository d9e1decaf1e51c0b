"""Pipelines on Ray."""
