"""A service in a process: from its making to its end."""
