"""Policies: what a mesh axis may be used for.

A policy narrows one axis' choices: how inputs and parameters lie, which
moves of values are allowed. The free policy allows all; each recipe
(data, fully sharded, tensor, ...) is a policy. What a policy disallows is
priced, not excluded, so that a model for which a recipe does not fit
exactly (a contrastive loss under data parallelism gathers its batch) still
gets a plan, and the price tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.hashed import HashedOnce
from planner.ir.convert import gradient_move
from planner.ir.layout import P, Placement, R, S, V
from planner.rules.registry import TensorSpec
from planner.rules.ring import RING_LOWERINGS

__all__ = ["FORBIDDEN_S", "Policy", "RELUCTANT_S", "UNDIVIDED_S"]

FORBIDDEN_S = 1e5
"""Price in seconds of a move that a policy disallows."""

RELUCTANT_S = 10.0
"""Price in seconds of what a policy does only where it must."""

UNDIVIDED_S = 100.0
"""Price in seconds of a product that a recipe's axis doesn't divide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(HashedOnce):
    """What one axis may do; the default is free.

    Parameters
    ----------
    name : str
        Of the recipe, ``auto`` for the free policy.
    input_dim : int or None
        Inputs are sharded along this dim where it exists and divides;
        None: any dim, chosen by cost.
    rest : str
        How parameters lie at rest: ``any``, ``whole``, ``sharded`` (some
        dim wherever one divides) or ``used`` (as they are used).
    use_shards : bool
        Whether parameters may be used sharded.
    value_moves : frozenset of str or None
        Kinds of moves that differentiable values may make beside
        conversions to the same value; None: all.
    reluctant_moves : frozenset of str
        Kinds of moves that it makes only where they divide a product.
    index_moves : bool
        Whether values without gradient may be gathered.
    partial_sums : bool
        Whether partial activations may be summed in full (``all_reduce``)
        rather than be reduce-scattered.
    divide : bool
        Whether an undivided product is priced.
    shard_weights : bool
        Whether a product that is divided otherwise than by its weight is
        priced, in blocks that repeat (in all where none does).
    preferred : frozenset of str
        Lowerings that a call is to take on this axis where it has one.
    avoided : frozenset of str
        Lowerings that it is not to take; the free policy avoids none.
    regather : bool
        Whether parameters that are gathered for use are gathered again in
        the backward pass.
    sequential : bool
        Whether the parts are computed one after the other, so that no
        value may move between them.
    lowerings : frozenset of str or None
        Special computations that options may ask for; None: all.
    """

    name: str = "auto"
    input_dim: int | None = None
    rest: str = "any"
    use_shards: bool = True
    value_moves: frozenset[str] | None = None
    reluctant_moves: frozenset[str] = frozenset()
    index_moves: bool = True
    partial_sums: bool = True
    divide: bool = False
    shard_weights: bool = False
    preferred: frozenset[str] = frozenset()
    avoided: frozenset[str] = frozenset(RING_LOWERINGS)
    regather: bool = False
    sequential: bool = False
    lowerings: frozenset[str] | None = None

    __hash__ = HashedOnce.__hash__

    @property
    def is_free(self) -> bool:
        return self.name == "auto"

    def input_placements(self, spec: TensorSpec, size: int,
                         lead: Mapping[int, int]) -> tuple[Placement, ...]:
        """Placements an input may have; `lead`: dim to its usual size."""
        if self.input_dim is None:
            dims = range(spec.ndim) if self.is_free else ()
            return (R, *(S(d) for d in dims if _divides(spec, d, size)))
        dim = self.input_dim
        usual = dim < spec.ndim and spec.shape[dim] == lead.get(dim)
        if usual and _divides(spec, dim, size):
            return (S(dim), ) if self.divide else (S(dim), R)
        return (R, )

    def rest_placements(self, spec: TensorSpec,
                        size: int) -> tuple[Placement, ...]:
        """Placements a parameter may have at rest."""
        shards = tuple(
            S(d) for d in range(spec.ndim) if _divides(spec, d, size))
        if self.rest == "whole":
            return (R, )
        if self.rest == "sharded" and shards:
            return shards + (R, )
        return (R, *shards)

    def price_s(self, kind: str, spec: TensorSpec, source: Placement,
                target: Placement, move: str) -> float:
        """What moving a value this way costs beside its time.

        Parameters
        ----------
        kind : str
            ``rest``: a parameter on its way into use; ``param``: one in
            use on its way to a call; ``output``: what every rank returns
            whole, whatever the policy; ``value``: anything else.
        spec : TensorSpec
        source, target : Placement
        move : str
            Kind of the forward move.
        """
        if self.is_free or kind == "output":
            return 0.0
        if self.sequential:
            return _sequential_s(kind, spec, source, target, move,
                                 self.value_moves or frozenset())
        if move in ("none", "regroup"):
            # What is regrouped is a weight that is used as sharded; and
            # gradients are summed on the way to rest, in buckets.
            inside = kind == "param" and (source, target) == (R, V)
            return RELUCTANT_S if inside and not self.use_shards else 0.0
        if kind == "rest":
            moved = self.rest == "used" and move != "mask"
            return FORBIDDEN_S if moved else 0.0
        if kind == "param":
            if move == "slice" and not self.use_shards:
                return RELUCTANT_S
            return 0.0 if move in ("slice", "mask") else FORBIDDEN_S
        if not spec.requires_grad:
            gathers = move in ("all_gather", "all_to_all", "pad")
            return FORBIDDEN_S if gathers and not self.index_moves else 0.0
        if (move == "all_reduce" and source == P and not self.partial_sums
                and spec.ndim >= 3):
            return FORBIDDEN_S
        if move in self.reluctant_moves:
            return RELUCTANT_S
        if self.value_moves is None or move in self.value_moves:
            return 0.0
        return FORBIDDEN_S


def _divides(spec: TensorSpec, dim: int, size: int) -> bool:
    return spec.shape[dim] >= size and spec.shape[dim] % size == 0


def _sequential_s(kind: str, spec: TensorSpec, source: Placement,
                  target: Placement, forward: str,
                  value_moves: frozenset[str]) -> float:
    """A parameter's gradient may be summed in the end, and what has no
    gradient be known before the first part; no activation may move."""
    if kind == "rest":
        return 0.0 if target.is_replicated else FORBIDDEN_S
    if not spec.requires_grad:
        return 0.0 if forward == "none" else RELUCTANT_S
    back = gradient_move(source, target)
    backward = back.kind if back is not None else "all_reduce"
    if forward in ("none", "mask") and backward in ("none", "mask"):
        return 0.0
    summed = kind == "param" and target.is_replicated
    summed |= {forward, backward} <= {"none", "mask", *value_moves}
    return RELUCTANT_S if summed else FORBIDDEN_S
