"""Experts of Hugging Face models, captured as one operator.

Transformers lets implementations of experts be registered by name and
chooses by the model's config. While a model is traced its config names
ours, which calls ``scaletorch::experts``; afterwards it says what it said.
What transformers keeps private of this is named in this file alone, and
``tests/test_planner/test_capture/test_experts.py`` notices when it changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

import planner.ops  # noqa: F401 (registers the operator)
from planner.capture.autocast import ambient_autocast
from planner.ops.experts import Settings
from planner.ops.gates import ACTIVATIONS, gated

__all__ = ["experts_settings", "whole_experts"]

_KEY = "_experts_implementation_internal"
_NAME = "scaletorch"
_REPLACED = ("eager", "grouped_mm", "batched_mm")

Forward = Callable[..., torch.Tensor]


@contextlib.contextmanager
def whole_experts(model: nn.Module, notes: list[str]) -> Iterator[None]:
    """Make experts one operator while the model is traced.

    Experts whose computation is not known to the operator are traced
    through, as grouped products.
    """
    modules = [m for m in model.modules() if hasattr(m, "_is_expert_parallel")]
    configs = {
        id(m.config): m.config
        for m in modules if getattr(m.config, _KEY, None) in _REPLACED
    }
    if not configs:
        yield
        return
    known = {m: experts_settings(m) for m in modules}
    if not all(known.values()):
        notes.append("some experts compute what the experts operator can't: "
                     "they are captured as grouped products, whose tokens "
                     "can't be dispatched")
    original = {i: getattr(c, _KEY) for i, c in configs.items()}
    with _registered(_forward(known, original)):
        for config in configs.values():
            setattr(config, _KEY, _NAME)
        try:
            yield
        finally:
            for i, config in configs.items():
                setattr(config, _KEY, original[i])


@contextlib.contextmanager
def _registered(forward: Forward) -> Iterator[None]:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS as table

    table.register(_NAME, forward)
    try:
        yield
    finally:
        del table._global_mapping[_NAME]


def _forward(known: Mapping[nn.Module, Settings | None],
             original: Mapping[int, str]) -> Forward:
    """The implementation for these modules."""
    from transformers.integrations.moe import grouped_mm_experts_forward

    def forward(module: nn.Module, hidden: torch.Tensor, index: torch.Tensor,
                weights: torch.Tensor) -> torch.Tensor:
        settings = known.get(module)
        if settings is None:
            return grouped_mm_experts_forward(module, hidden, index, weights)
        tensors = _tensors(module)
        dtype = tensors[0].dtype
        if original[id(module.config)] == "eager":
            # As its products would be under autocast; the others take the
            # dtype of their matrices.
            dtype = ambient_autocast() or dtype
        cast = [t if t is None else t.to(dtype) for t in tensors]
        rows = hidden.reshape(-1, hidden.shape[-1]).to(dtype)
        out = torch.ops.scaletorch.experts(rows, index.reshape(len(rows), -1),
                                           weights.reshape(len(rows), -1),
                                           *cast, settings.activation,
                                           settings.gate, settings.transposed,
                                           list(settings.constants))
        return out.to(hidden.dtype).view(hidden.shape)

    return forward


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    first = "gate_up_proj" if module.has_gate else "up_proj"
    names = [first, "down_proj"]
    if module.has_bias:
        names += [f"{first}_bias", "down_proj_bias"]
    found: list[Any] = [getattr(module, n) for n in names]
    return found + [None] * (4 - len(found))


def experts_settings(module: nn.Module) -> Settings | None:
    """What a module of experts computes, found out by trying.

    Its gate is run on a few numbers and compared with those that the
    operator has; None where none is the same.
    """
    if (module._is_expert_parallel
            or getattr(module, "has_post_expert_norm", False)):
        return None
    run = module._apply_gate if module.has_gate else module.act_fn
    inner = torch.linspace(-9, 9, 64).view(2, 32)
    try:
        with torch.no_grad():
            wanted = run(inner.clone())
    except (RuntimeError, NotImplementedError):
        return None  # a gate with parameters, on another device
    for settings in _candidates(module):
        found = gated(inner, settings.activation, settings.gate,
                      settings.constants)
        if found.shape == wanted.shape and torch.allclose(
                found, wanted, rtol=1e-5, atol=1e-6):
            return settings
    return None


def _candidates(module: nn.Module) -> Iterator[Settings]:
    transposed = bool(module.is_transposed)
    gates = ("halves", "pairs") if module.has_gate else ("none", )
    for gate in gates:
        for activation in sorted(ACTIVATIONS):
            yield Settings(activation, gate, transposed)
    scale, limit = (getattr(module, n, None) for n in ("alpha", "limit"))
    if module.has_gate and scale is not None and limit is not None:
        yield Settings("silu", "clamped_pairs", transposed,
                       (float(scale), float(limit)))
