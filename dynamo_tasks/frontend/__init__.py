"""The HTTP side: OpenAI's API, server-sent events that can be resumed, health, metrics."""
