"""Sharding rules: what each operator can do over one mesh axis."""

from planner.rules import attention  # noqa: F401
from planner.rules import (elementwise, embedding, loss, matmul,  # noqa: F401
                           norm, random, reduce, view)
from planner.rules.localize import localize
from planner.rules.registry import (Arg, OpCall, Option, TensorSpec, has_rule,
                                    options, register, registered_ops)

__all__ = [
    "Arg", "OpCall", "Option", "TensorSpec", "has_rule", "localize", "options",
    "register", "registered_ops"
]
