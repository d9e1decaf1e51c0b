"""What callers have: endpoints as tasks, their results."""
