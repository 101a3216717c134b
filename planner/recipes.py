"""Recipes: the known strategies, each as a policy of one axis.

A recipe says what its axis is for; the layouts follow from it by the same
search that makes automatic plans. ``a * b`` combines recipes of different
axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec, inner_mesh
from planner.rules.ring import RING_LOWERINGS
from planner.search.policy import Policy

__all__ = ["RECIPES", "Recipe", "policies_for", "recipe"]

_LOCAL = frozenset({"slice", "mask"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """Policies by the axis name they are meant for.

    Examples
    --------
    >>> (RECIPES["fsdp"]() * RECIPES["megatron"]()).name
    'fsdp * megatron'
    """

    parts: tuple[tuple[str, Policy], ...]
    pipeline: PipelineSpec | None = None

    def __mul__(self, other: Recipe) -> Recipe:
        if self.pipeline is not None and other.pipeline is not None:
            raise ValueError("a plan has one pipeline, but two are combined; "
                             "leave one out")
        return Recipe(self.parts + other.parts, self.pipeline
                      or other.pipeline)

    @property
    def name(self) -> str:
        names = [policy.name for _, policy in self.parts]
        if self.pipeline is not None:
            names.insert(0, f"pipeline({self.pipeline.schedule})")
        return " * ".join(names)


RECIPES: dict[str, Callable[..., Recipe]] = {}


def recipe(builder: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """Register a recipe under its function's name.

    Raises
    ------
    ValueError
        For a name that is taken.
    """
    name = builder.__name__
    if name in RECIPES:
        raise ValueError(f"recipe {name!r} is registered twice")
    RECIPES[name] = builder
    return builder


def _data(name: str, rest: str, *, regather: bool = False) -> Recipe:
    """The batch is sharded and parameters are used whole."""
    return Recipe((("dp",
                    Policy(name=name,
                           input_dim=0,
                           rest=rest,
                           use_shards=False,
                           value_moves=_LOCAL | {"all_reduce"},
                           index_moves=False,
                           divide=True,
                           regather=regather)), ))


@recipe
def ddp() -> Recipe:
    """Data parallelism: the batch is sharded, parameters are whole."""
    return _data("ddp", "whole")


@recipe
def fsdp() -> Recipe:
    """Fully sharded data parallelism (ZeRO-3): parameters, gradients and
    optimizer state are sharded; gathered for use, twice a step."""
    return _data("fsdp", "sharded", regather=True)


@recipe
def zero1() -> Recipe:
    """Sharded optimizer state: as ``fsdp``, but parameters stay whole from
    the forward to the backward."""
    return _data("zero1", "sharded")


@recipe
def ring() -> Recipe:
    """Sequence sharded everywhere; in attention keys and values go around
    the axis, causal attention in zig-zag order (Liu et al., Ring Attention,
    2023). Attention that can't go round gathers its keys and values."""
    return Recipe((("cp",
                    Policy(name="ring",
                           input_dim=1,
                           rest="whole",
                           use_shards=False,
                           value_moves=_LOCAL | {"all_reduce"},
                           reluctant_moves=frozenset({"all_gather"}),
                           preferred=frozenset(RING_LOWERINGS),
                           avoided=frozenset(),
                           divide=True)), ))


@recipe
def expert() -> Recipe:
    """Expert parallelism: the batch is sharded, and so are the experts of
    mixtures; tokens go to their experts and back (Lepikhin et al., GShard,
    2020). Other parameters are whole."""
    return Recipe((("ep",
                    Policy(name="expert",
                           input_dim=0,
                           rest="used",
                           value_moves=_LOCAL | {"all_reduce"},
                           index_moves=False,
                           preferred=frozenset({"expert_dispatch"}),
                           divide=True)), ))


@recipe
def megatron(sequence_parallel: bool = False) -> Recipe:
    """Tensor parallelism: products sharded by columns, then by rows.

    Tables of embeddings are divided as well, by rows.

    Parameters
    ----------
    sequence_parallel : bool
        Whether activations between the products are sharded too
        (Korthikanti et al., 2022).
    """
    if sequence_parallel:
        policy = Policy(name="megatron-sp",
                        rest="used",
                        divide=True,
                        shard_weights=True,
                        value_moves=_LOCAL
                        | {"all_reduce", "all_gather", "reduce_scatter"},
                        partial_sums=False)
    else:
        policy = Policy(name="megatron",
                        rest="used",
                        divide=True,
                        shard_weights=True,
                        value_moves=frozenset({"all_reduce"}),
                        reluctant_moves=frozenset({"slice"}))
    return Recipe((("tp", policy), ))


def _of_sequence(name: str, kind: str) -> Recipe:
    """Sequence sharded everywhere but where values move by a collective."""
    return Recipe((("cp",
                    Policy(name=name,
                           input_dim=1,
                           rest="whole",
                           use_shards=False,
                           value_moves=_LOCAL | {"all_reduce", kind},
                           divide=True)), ))


@recipe
def ulysses() -> Recipe:
    """Sequence sharded everywhere but in attention, where heads are
    (Jacobs et al., DeepSpeed-Ulysses, 2023)."""
    return _of_sequence("ulysses", "all_to_all")


@recipe
def gather_kv() -> Recipe:
    """Sequence sharded everywhere; attention gathers keys and values."""
    return _of_sequence("gather_kv", "all_gather")


@recipe
def pipeline(schedule: str = "1f1b",
             microbatches: int = 4,
             chunks: int = 1,
             cuts: Sequence[str] = (),
             batch_statistics: str = "exact") -> Recipe:
    """Pipeline parallelism: blocks are spread over the ranks of an axis,
    and a batch goes through them in micro-batches (Huang et al., GPipe,
    2019; Narayanan et al., 2021).

    Parameters
    ----------
    schedule : str
        ``gpipe``, ``1f1b``, ``interleaved1f1b``, ``loopedbfs``, ``zbh1``,
        ``zbv``, ``dualpipev``, ``auto``, or the path of a schedule's text.
    microbatches : int
    chunks : int
        Stages of each rank.
    cuts : sequence of str
        The block with which each stage but the first begins, or
        ``BLOCK:CALL``, a call inside of one; left out: stages of about
        equal time.
    batch_statistics : {"exact", "microbatch"}
        Whether what is computed from a whole batch and its parameters
        (batch norm, losses that balance experts) is refused, or computed
        from each micro-batch, as a loop over micro-batches would.
    """
    return Recipe((),
                  PipelineSpec(schedule=schedule,
                               microbatches=microbatches,
                               chunks=chunks,
                               cuts=tuple(cuts),
                               batch_statistics=batch_statistics))


def policies_for(chosen: Recipe, mesh: MeshSpec) -> tuple[Policy, ...]:
    """One policy per mesh axis, but the pipeline's.

    Each part goes to the axis named like its recipe (``ring``), else to
    the usual one (``cp``); on a mesh of one axis the only part takes it
    whatever its name.

    Raises
    ------
    ValueError
        When a part finds no axis, an axis gets two parts or none.
    """
    if chosen.pipeline is not None:
        mesh = inner_mesh(mesh, chosen.pipeline.axis)
        if not chosen.parts:
            chosen = ddp()
    if len(chosen.parts) == 1 and len(mesh.names) == 1:
        return (chosen.parts[0][1], )
    taken: dict[str, Policy] = {}
    for usual, policy in chosen.parts:
        axis = policy.name if policy.name in mesh.names else usual
        if axis not in mesh.names:
            raise ValueError(
                f"recipe {policy.name} wants an axis {axis!r}; the mesh has "
                f"{', '.join(mesh.names)}")
        if axis in taken:
            raise ValueError(f"recipes {taken[axis].name} and {policy.name} "
                             f"both want axis {axis!r}")
        taken[axis] = policy
    missing = [n for n in mesh.names if n not in taken]
    if missing:
        raise ValueError(f"no recipe uses axis {missing[0]!r} of the mesh "
                         f"({mesh}); add one or drop the axis")
    return tuple(taken[n] for n in mesh.names)
