"""Sharding rules: what each operator can do over one mesh axis."""

import planner.rules.attention  # noqa: F401
import planner.rules.conv  # noqa: F401
import planner.rules.distance  # noqa: F401
import planner.rules.elementwise  # noqa: F401
import planner.rules.embedding  # noqa: F401
import planner.rules.loss  # noqa: F401
import planner.rules.matmul  # noqa: F401
import planner.rules.moe  # noqa: F401
import planner.rules.norm  # noqa: F401
import planner.rules.random  # noqa: F401
import planner.rules.rearrange  # noqa: F401
import planner.rules.recurrent  # noqa: F401
import planner.rules.reduce  # noqa: F401
import planner.rules.spectral  # noqa: F401
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
