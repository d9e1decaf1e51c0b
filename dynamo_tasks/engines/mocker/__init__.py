"""An engine that behaves like vLLM and computes nothing."""
