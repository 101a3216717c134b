"""The plans whose predictions are held against measured steps."""

from __future__ import annotations

from dataclasses import dataclass

from planner.recipes import Recipe
from scaletorch import parallel

__all__ = ["NamedPlan", "staged_plans", "usual_plans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPlan:
    """A recipe and the mesh it is for; None: search, on any mesh."""

    name: str
    recipe: Recipe | None = None
    axes: tuple[tuple[str, int], ...] = ()


def usual_plans(ranks: int, *, quick: bool) -> list[NamedPlan]:
    """What the search finds, beside what has a name; quick: the first two."""
    searched = NamedPlan(name="searched")
    if ranks == 1:
        return [searched]
    data, tensor = (("dp", ranks), ), (("tp", ranks), )
    found = [searched, NamedPlan(name="ddp", recipe=parallel.ddp(), axes=data)]
    if quick:
        return found
    found += [
        NamedPlan(name="fsdp", recipe=parallel.fsdp(), axes=data),
        NamedPlan(name="zero1", recipe=parallel.zero1(), axes=data),
        NamedPlan(name="megatron", recipe=parallel.megatron(), axes=tensor),
        NamedPlan(name="megatron-sp",
                  recipe=parallel.megatron(sequence_parallel=True),
                  axes=tensor),
    ]
    if ranks >= 4:
        found.append(
            NamedPlan(name="ddp * megatron",
                      recipe=parallel.ddp() * parallel.megatron(),
                      axes=(("dp", ranks // 2), ("tp", 2))))
    return found


def staged_plans(ranks: int) -> list[NamedPlan]:
    """Not among all: stages on neighbouring halves of the ranks."""
    pipeline = parallel.pipeline(schedule="1f1b", microbatches=4)
    if ranks == 2:
        return [
            NamedPlan(name="pipeline", recipe=pipeline, axes=(("pp", 2), ))
        ]
    if ranks < 4:
        return []
    half = ranks // 2
    return [
        NamedPlan(name="pipeline * ddp",
                  recipe=pipeline * parallel.ddp(),
                  axes=(("pp", 2), ("dp", half))),
        NamedPlan(name="pipeline * megatron",
                  recipe=pipeline * parallel.megatron(),
                  axes=(("pp", 2), ("tp", half))),
    ]
