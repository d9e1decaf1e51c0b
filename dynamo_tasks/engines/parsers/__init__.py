"""Tool calls and reasoning in answers, read by vLLM's own parsers."""
