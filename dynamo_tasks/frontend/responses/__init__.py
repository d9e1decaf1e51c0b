"""OpenAI's Responses API: each response is a request and its stream."""
