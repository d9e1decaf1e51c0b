"""The runs of batches: durable, each line once, spare capacity alone."""
