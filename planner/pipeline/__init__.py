"""Pipelines: micro-batches as one more axis, and the cut into stages."""
