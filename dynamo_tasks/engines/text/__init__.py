"""Text in, text out: payloads, templates, tokenizers, deltas."""
