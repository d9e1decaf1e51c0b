"""Signed messages to addresses of the operator, about batches and responses that have ended."""
