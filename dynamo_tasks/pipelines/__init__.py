"""Environments, operators and services of pipelines."""
