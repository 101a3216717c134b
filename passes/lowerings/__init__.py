"""Local computations of calls that need more than local shapes."""

from passes.lowerings import (
    attention,
    batch_norm,
    embedding,  # noqa: F401
    factory,
    linear,
    loss,
    reduction)
