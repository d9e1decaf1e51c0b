"""Supervised processes of one ``serve``."""
