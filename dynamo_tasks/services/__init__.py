"""Ready-made services: Frontend, Processor, Worker."""
