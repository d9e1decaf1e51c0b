"""The real engine: vLLM's ``AsyncLLM``."""
