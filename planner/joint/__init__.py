"""The joint search: stages, micro-batches, data and tensor parallelism."""
