"""What you deploy: graph modules."""
