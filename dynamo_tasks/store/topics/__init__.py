"""Events of components: bounded logs, subscribers, durable groups."""
