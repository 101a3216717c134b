"""Small models, and the plans of them that are run against each other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.ir.errors import InfeasiblePlan, LayoutError, ScheduleError
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.planning import Planning
from planner.recipes import Recipe
from scaletorch import models, parallel
from scaletorch.choose import choose, searched_meshes
from scaletorch.cluster import cluster_of

__all__ = [
    "AUTO", "MODELS", "UNSTAGED", "Manual", "Planned", "manuals",
    "model_and_batch", "planned", "worth_running"
]

AUTO = "automatic"
"""The best plan of the search."""
UNSTAGED = "automatic, without stages"
"""What `auto_parallelize` takes on a mesh without names, if it is another."""

MODELS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gpt2": ("gpt2", {
        "width": 256,
        "depth": 4,
        "heads": 4,
        "vocabulary_size": 1024
    }, {
        "batch_size": 8,
        "sequence_length": 64
    }),
    "llama": ("llama3-8b", {
        "width": 256,
        "depth": 4,
        "heads": 8,
        "kv_heads": 4,
        "hidden_width": 512,
        "vocabulary_size": 2048
    }, {
        "batch_size": 8,
        "sequence_length": 64
    }),
    "long": ("llama3-8b", {
        "width": 128,
        "depth": 2,
        "heads": 8,
        "kv_heads": 4,
        "hidden_width": 256,
        "vocabulary_size": 512
    }, {
        "batch_size": 2,
        "sequence_length": 1024
    }),
    "bert": ("bert-base", {
        "width": 192,
        "depth": 4,
        "heads": 4,
        "vocabulary_size": 1024
    }, {
        "batch_size": 16,
        "sequence_length": 64
    }),
    "t5": ("t5-small", {
        "width": 128,
        "depth": 2,
        "heads": 4,
        "head_dim": 32,
        "hidden_width": 512,
        "vocabulary_size": 1024
    }, {
        "batch_size": 8,
        "sequence_length": 64
    }),
    "vit": ("vit-b16", {
        "width": 192,
        "depth": 4,
        "heads": 4,
        "image": 64,
        "patch": 8,
        "classes": 16
    }, {
        "batch_size": 16
    }),
    "experts": ("qwen3-30b-a3b", {
        "width": 128,
        "depth": 2,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 32,
        "hidden_width": 256,
        "vocabulary_size": 512,
        "router": {
            "experts": 4,
            "active": 2
        }
    }, {
        "batch_size": 8,
        "sequence_length": 64
    }),
}
"""Registered name, its config's overrides, and the size of the batch."""

_RECIPES: Mapping[str, Sequence[Callable[[], Recipe]]] = {
    "dp": (parallel.ddp, parallel.zero1, parallel.fsdp),
    "tp":
    (parallel.megatron, lambda: parallel.megatron(sequence_parallel=True)),
    "cp": (parallel.ulysses, parallel.ring, parallel.gather_kv),
    "ep": (parallel.expert, ),
    "pp": (lambda: parallel.pipeline(microbatches=4), ),
}
_AXES = ("pp", "dp", "cp", "ep", "tp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manual:
    """A product of recipes and its mesh."""

    recipe: Recipe
    axes: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        sizes = " x ".join(f"{axis}={size}" for axis, size in self.axes)
        return f"{self.recipe.name} ({sizes})"


def manuals(ranks: int) -> Iterator[Manual]:
    """Every recipe over all ranks, and products of two over halves."""
    for axis in _AXES:
        for build in _RECIPES[axis]:
            yield Manual(recipe=build(), axes=((axis, ranks), ))
    if ranks % 2 or ranks < 4:
        return
    for first, second in itertools.combinations(_AXES, 2):
        for one, other in itertools.product(_RECIPES[first], _RECIPES[second]):
            yield Manual(recipe=one() * other(),
                         axes=((first, 2), (second, ranks // 2)))


def model_and_batch(name: str) -> tuple[nn.Module, Any]:
    """The same on every rank."""
    registered, overrides, batch = MODELS[name]
    fields = dict(overrides)
    if "router" in fields:
        router = models.config(registered).router
        fields["router"] = type(router)(**fields["router"])
    torch.manual_seed(0)
    model = models.build(registered, **fields)
    return model, model.example_inputs(**batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan that was made, as text; `reason` where there is none."""

    name: str
    uses: str = ""
    predicted_s: float = 0.0
    plan: str = ""
    axes: tuple[tuple[str, int], ...] = ()
    reason: str = ""

    @property
    def program(self) -> str:
        """What ranks do, whatever axes without stages are called."""
        plan = Plan.from_yaml(self.plan)
        if plan.pipeline is not None or plan.shares:
            return self.plan
        names = tuple(f"axis{i}" for i, _ in enumerate(plan.mesh.names))
        return dataclasses.replace(plan,
                                   mesh=MeshSpec(names, plan.mesh.sizes),
                                   axes={}).to_yaml()

    @property
    def is_product(self) -> bool:
        """Whether it is of recipes over several axes."""
        return self.name not in (AUTO, UNSTAGED) and len(self.axes) > 1


def planned(name: str, ranks: int, cluster: str) -> list[Planned]:
    """The automatic plans of a model, and those of all recipes."""
    model, inputs = model_and_batch(name)
    planning = Planning(capture(model, inputs),
                        cluster_of(cluster, ranks, "cpu"))
    flat = MeshSpec(("dp", ), (ranks, ))
    found = [
        _planned(AUTO, lambda: planning.plan_of(_searched(planning, flat))),
        _planned(UNSTAGED,
                 lambda: choose(planning, None, flat, flat=True)[0].plan)
    ]
    if found[0].plan == found[1].plan:
        found.pop()
    for manual in manuals(ranks):
        mesh = MeshSpec(*zip(*manual.axes))
        found.append(
            _planned(manual.name,
                     lambda m=manual.recipe, on=mesh: choose(
                         planning, m, on, flat=False)[0].plan))
    return found


def _searched(planning: Planning, flat: MeshSpec) -> Candidate:
    candidates = planning.candidates(searched_meshes(flat, flat=True))
    planning.check_fits(candidates)
    return next(filter(planning.fits, candidates))


def _planned(name: str, make: Callable[[], Plan]) -> Planned:
    try:
        plan = make()
    except (InfeasiblePlan, LayoutError, ScheduleError, ValueError) as error:
        return Planned(name=name, reason=str(error))
    return Planned(
        name=name,
        uses=_uses(plan) if name in (AUTO, UNSTAGED) else "",
        predicted_s=plan.prediction["step_time_s"],
        # What a search has proved is no other plan.
        plan=dataclasses.replace(plan, prediction={}).to_yaml(),
        axes=tuple(zip(plan.mesh.names, plan.mesh.sizes)))


def _uses(plan: Plan) -> str:
    """What each axis is for, those of one rank left out."""
    sizes = dict(zip(plan.mesh.names, plan.mesh.sizes, strict=True))
    uses = [f"{n}={s} {plan.axes[n]}" for n, s in sizes.items() if s > 1]
    return ", ".join(uses)


def worth_running(plans: Sequence[Planned],
                  products: int | None) -> list[Planned]:
    """The automatic plan, every recipe over one axis, and of the products
    those that are predicted to be quickest.

    Parameters
    ----------
    plans : sequence of Planned
    products : int or None
        How many; None: all.
    """
    made = [p for p in plans if not p.reason]
    ranked = sorted((p for p in made if p.is_product),
                    key=lambda p: p.predicted_s)
    chosen = {p.name for p in ranked[:products]}
    return [p for p in made if not p.is_product or p.name in chosen]
