"""Recipes that divide a batch which does not divide."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import Program
from planner.recipes import Recipe, ddp, policies_for
from planner.search.policy import Policy

__all__ = ["undivided", "unused_axes"]


def undivided(chosen: Recipe, program: Program,
              layout: ProgramLayout) -> Iterator[str]:
    """A sentence for each axis whose recipe found no input to shard.

    Such a plan is right, but all ranks of the axis compute the same.

    Parameters
    ----------
    chosen : Recipe
    program : Program
    layout : ProgramLayout
        Of the program under the recipe.
    """
    yield from unused_axes(_policies(chosen, layout.mesh), program, layout)


def unused_axes(policies: Sequence[Policy], program: Program,
                layout: ProgramLayout) -> Iterator[str]:
    """The same of policies, one for each axis but that of micro-batches."""
    inputs = [(f"input:{i}", leaf) for i, leaf in enumerate(program.leaves)
              if leaf.spec is not None and leaf.spec.shape]
    for number, (policy, size) in enumerate(zip(policies, layout.mesh.sizes)):
        if policy.input_dim is None or size == 1 or not inputs:
            continue
        if any(layout.at_rest[name][number].is_shard for name, _ in inputs
               if name in layout.at_rest):
            continue
        shapes = ", ".join(f"{leaf.path} {leaf.spec.shape}"
                           for _, leaf in inputs if leaf.spec is not None)
        yield (f"{policy.name} divides dim {policy.input_dim} of the inputs, "
               f"but none divides over {layout.mesh.names[number]}={size} "
               f"({shapes}): every rank of the axis computes the same; pass "
               "a multiple")


def _policies(chosen: Recipe, mesh: MeshSpec) -> tuple[Policy, ...]:
    """Of the axes but the micro-batches, which a pipeline has last."""
    sizes = {
        n: s
        for n, s in zip(mesh.names, mesh.sizes, strict=True) if n != MICROBATCH
    }
    parts = chosen if chosen.parts else ddp()
    return policies_for(dataclasses.replace(parts, pipeline=None),
                        MeshSpec(tuple(sizes), tuple(sizes.values())))
