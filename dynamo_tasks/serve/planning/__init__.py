"""Processes, ports and GPUs for a graph and its settings."""
