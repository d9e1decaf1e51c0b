"""OpenAI's API, and the rendering of its answers."""
