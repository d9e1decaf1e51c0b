"""API keys that were made at run time, and what keys have used."""
