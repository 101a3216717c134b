"""Small models, and the plans of them that are run against each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from planner.capture.capture import capture
from planner.ir.errors import InfeasiblePlan, LayoutError, ScheduleError
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import Recipe
from scaletorch import models, parallel
from scaletorch.choose import choose
from scaletorch.cluster import cluster_of

__all__ = [
    "AUTO", "MODELS", "Manual", "Planned", "manuals", "model_and_batch",
    "planned", "worth_running"
]

AUTO = "automatic"

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
    return model, model.example_inputs(**batch)  # type: ignore[operator]


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
    def is_product(self) -> bool:
        """Whether it is of recipes over several axes."""
        return self.name != AUTO and len(self.axes) > 1


def planned(name: str, ranks: int, cluster: str) -> list[Planned]:
    """The automatic plan of a model, and those of all recipes."""
    model, inputs = model_and_batch(name)
    planning = Planning(capture(model, inputs),
                        cluster_of(cluster, ranks, "cpu"))
    found = []
    for manual in (None, *manuals(ranks)):
        label = AUTO if manual is None else manual.name
        try:
            found.append(_planned(planning, label, manual, ranks))
        except (InfeasiblePlan, LayoutError, ScheduleError,
                ValueError) as error:
            found.append(Planned(name=label, reason=str(error)))
    return found


def _planned(planning: Planning, label: str, manual: Manual | None,
             ranks: int) -> Planned:
    names, sizes = (zip(*manual.axes) if manual else (("dp", ), (ranks, )))
    mesh = MeshSpec(tuple(names), tuple(sizes))
    chosen, *_ = choose(planning,
                        manual and manual.recipe,
                        mesh,
                        flat=manual is None)
    plan = chosen.plan
    uses = ", ".join(
        f"{axis}={size} {plan.axes[axis]}"
        for axis, size in zip(plan.mesh.names, plan.mesh.sizes, strict=True))
    return Planned(name=label,
                   uses="" if manual else uses,
                   predicted_s=plan.prediction["step_time_s"],
                   plan=plan.to_yaml(),
                   axes=tuple(zip(plan.mesh.names, plan.mesh.sizes)))


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
