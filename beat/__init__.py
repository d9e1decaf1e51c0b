"""What you schedule: entries and their tasks."""
