"""Recipes by hand: plan builders that combine with ``*``.

Examples
--------
>>> from scaletorch import parallel
>>> plan = parallel.fsdp() * parallel.megatron(sequence_parallel=True)
>>> plan.name
'fsdp * megatron-sp'
"""

from planner.recipes import (Recipe, ddp, expert, fsdp, gather_kv, megatron,
                             pipeline, ring, ulysses, zero1)

__all__ = [
    "Recipe", "ddp", "expert", "fsdp", "gather_kv", "megatron", "pipeline",
    "ring", "ulysses", "zero1"
]
