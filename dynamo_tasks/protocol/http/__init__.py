"""Bodies of HTTP requests, checked."""
