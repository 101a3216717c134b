"""Local computations of calls that need more than local shapes."""

import passes.lowerings.attention  # noqa: F401
import passes.lowerings.batch_norm  # noqa: F401
import passes.lowerings.embedding  # noqa: F401
import passes.lowerings.experts  # noqa: F401
import passes.lowerings.factory  # noqa: F401
import passes.lowerings.linear  # noqa: F401
import passes.lowerings.loss  # noqa: F401
import passes.lowerings.reduction  # noqa: F401
import passes.lowerings.ring_attention  # noqa: F401
