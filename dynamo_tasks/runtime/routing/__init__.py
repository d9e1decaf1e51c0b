"""Choice of an instance by a process that knows its fleet: caches that are followed, loads, sessions."""
