"""Measurements, side by side with peers. Run from the checkout: ``python -m benchmarks.run --help``."""
