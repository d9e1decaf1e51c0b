"""One attempt at one request: claim, stream, end."""
