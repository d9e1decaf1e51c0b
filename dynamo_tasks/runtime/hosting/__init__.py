"""The endpoints that a process serves, from its making to its end."""
