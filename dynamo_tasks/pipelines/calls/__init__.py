"""Calls of services: requests out, responses in, matched by their ids."""
