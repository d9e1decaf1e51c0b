"""A job as it is sent to workers, and what a worker trusts of it."""
