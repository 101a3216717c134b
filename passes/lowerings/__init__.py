"""Local computations of calls that need more than local shapes."""

from passes.lowerings import attention, batch_norm, embedding, linear  # noqa: F401
from passes.lowerings import loss, reduction, factory  # noqa: F401
