"""Files of clients: their contents in object storage, what is known of them in Redis."""
