"""The streams of requests: one writer a process, one reader a process."""
