"""Pass: parameters are brought into use on the way into a block.

Needs a layout of a program. Leaves every parameter that a block holds
replicated, and all of whose readers want its gradient summed (``V``), in
the readers' layout at the block's entry. Layouts that were searched are so
already (:mod:`planner.search.hoist`); a plan that was written by hand need
not be.
"""

from planner.search.hoist import hoist_parameters

__all__ = ["hoist_parameters"]
