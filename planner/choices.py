"""What is tried on a mesh: which recipes on which axes, and which meshes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from planner.constraints import Constraints
from planner.ir.mesh import MeshSpec
from planner.recipes import RECIPES
from planner.rules.ring import RING_LOWERINGS
from planner.search.policy import Policy

__all__ = [
    "factorisations", "free_policies", "known_recipes", "recipe_policies",
    "role_policies"
]

_AXIS_RECIPES: Mapping[str, tuple[str, ...]] = {
    "dp": ("ddp", "zero1", "fsdp"),
    "tp": ("megatron", "megatron-sp"),
    "cp": ("ulysses", "ring", "gather_kv"),
    "ep": ("expert", ),
}


def known_recipes() -> tuple[str, ...]:
    """Names of all recipes that are tried."""
    return tuple(n for group in _AXIS_RECIPES.values() for n in group)


def free_policies(mesh: MeshSpec) -> tuple[Policy, ...]:
    """Policies that leave all to the search; ``dp`` divides the batch."""
    data = dataclasses.replace(Policy(),
                               input_dim=0,
                               rest="any",
                               use_shards=False,
                               name="auto-dp")
    return tuple(data if n == "dp" else Policy() for n in mesh.names)


def role_policies(mesh: MeshSpec,
                  constraints: Constraints) -> tuple[Policy, ...]:
    """Policies by what the axes' names mean, the rest left to the search.

    ``dp`` and ``ep`` divide the batch, ``cp`` the sequence; only ``ep`` and
    ``tp`` use parameters in parts. How attention gets its keys, which way
    tokens go to their experts and all of ``tp`` follow from cost.
    """
    ring = constraints.allows_recipe("ring")
    roles = {
        "dp":
        Policy(name="auto-dp", input_dim=0, use_shards=False),
        "ep":
        Policy(name="auto-ep", input_dim=0),
        "cp":
        Policy(name="auto-cp",
               input_dim=1,
               use_shards=False,
               divide=True,
               index_moves=False,
               avoided=frozenset(() if ring else RING_LOWERINGS)),
        "tp":
        Policy(name="auto-tp", shard_weights=True),
    }
    return tuple(roles.get(n, Policy()) for n in mesh.names)


def recipe_policies(mesh: MeshSpec,
                    constraints: Constraints) -> Iterator[tuple[Policy, ...]]:
    """Every product of the recipes that suit the axes' names.

    On an axis whose name has no usual meaning all recipes are tried.
    """
    choices = []
    for name in mesh.names:
        # Experts are spread by the free policies as well.
        names = _AXIS_RECIPES.get(
            name, tuple(n for n in known_recipes() if n != "expert"))
        choices.append(
            [_policy(n) for n in names if constraints.allows_recipe(n)])
    yield from itertools.product(*choices)


def _policy(name: str) -> Policy:
    if name == "megatron-sp":
        built = RECIPES["megatron"](sequence_parallel=True)
    else:
        built = RECIPES[name]()
    return built.parts[0][1]


def factorisations(world_size: int, *, max_axes: int = 2) -> list[MeshSpec]:
    """Meshes for a number of devices: data by model axes.

    Every split of the devices into a ``dp`` axis and a ``tp`` axis (either
    may be left out), and, for ``max_axes`` of 3, a ``cp`` axis between.
    """
    meshes = []
    for dp in _divisors(world_size):
        rest = world_size // dp
        splits: Sequence[tuple[int, int]] = [(rest, 1)]
        if max_axes >= 3:
            splits = [(t, rest // t) for t in _divisors(rest)]
        for tp, cp in splits:
            sizes = {"dp": dp, "cp": cp, "tp": tp}
            kept = {n: s for n, s in sizes.items() if s > 1}
            meshes.append(
                MeshSpec(
                    tuple(kept) or ("dp", ),
                    tuple(kept.values()) or (1, )))
    return meshes


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
