"""Operators of our own, which captured programs hold whole."""

import planner.ops.ctc_loss  # noqa: F401
import planner.ops.experts  # noqa: F401
import planner.ops.split_linear  # noqa: F401
