"""Anthropic's Messages API, on the same requests and streams as OpenAI's."""
