"""Endpoints and HTTP methods of a service."""
