"""Sharding rules: what each operator can do over one mesh axis.

The modules of this package register rules by family. A rule for one more
operator, here a custom one, is registered alike; `discover` finds out what
to say in it:

>>> import torch
>>> @torch.library.custom_op("rules_doc::row_sums", mutates_args=())
... def row_sums(x: torch.Tensor) -> torch.Tensor:
...     return x.cumsum(1)
>>> op = torch.ops.rules_doc.row_sums.default
>>> found = discover(op, (torch.randn(4, 6, dtype=torch.float64), ))
>>> found
(S(0)->S(0), P->P)
>>> @register(op)
... def rule(call: OpCall) -> tuple[Option, ...]:
...     return found
"""

import planner.rules.attention  # noqa: F401
import planner.rules.conv  # noqa: F401
import planner.rules.distance  # noqa: F401
import planner.rules.elementwise  # noqa: F401
import planner.rules.embedding  # noqa: F401
import planner.rules.experts  # noqa: F401
import planner.rules.loss  # noqa: F401
import planner.rules.matmul  # noqa: F401
import planner.rules.moe  # noqa: F401
import planner.rules.norm  # noqa: F401
import planner.rules.random  # noqa: F401
import planner.rules.rearrange  # noqa: F401
import planner.rules.recurrent  # noqa: F401
import planner.rules.reduce  # noqa: F401
import planner.rules.spectral  # noqa: F401
import planner.rules.split_linear  # noqa: F401
import planner.rules.view  # noqa: F401
from planner.rules.discover import discover
from planner.rules.localize import localize
from planner.rules.lookup import options
from planner.rules.registry import (Arg, OpCall, Option, TensorSpec, has_rule,
                                    register, registered_ops)

__all__ = [
    "Arg", "OpCall", "Option", "TensorSpec", "discover", "has_rule",
    "localize", "options", "register", "registered_ops"
]
