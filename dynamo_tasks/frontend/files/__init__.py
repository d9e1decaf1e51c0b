"""``/v1/files``: files of clients, streamed to and from object storage."""
