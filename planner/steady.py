"""Draw the same numbers whatever the seed, the shard and the order.

Two programs that draw random numbers can be compared number by number only
if what they draw does not tell them apart. Under `steady_draws` every
element of a random tensor is the same number, one that the distribution
may give: dropout keeps everything and scales it, uniform numbers are in the
middle, normal ones one deviation above the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["STEADY", "steady_draws"]

STEADY = -1
"""Stands for a seed where draws shall be steady; no generator gives it."""

_ATEN = torch.ops.aten
_Given = Mapping[str, Any]


def steady_draws() -> TorchDispatchMode:
    """A context of this thread in which random operators are steady.

    Operators that draw inside of a kernel (attention with dropout on an
    accelerator) and a few rare distributions draw as ever.
    """
    return _Steady()


class _Steady(TorchDispatchMode):

    def __torch_dispatch__(self,
                           func: Any,
                           types: Any,
                           args: Any = (),
                           kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            name = func._schema.name.removeprefix("aten::").rstrip("_")
            given = _named(func, args, kwargs)
            if name in _WHOLE:
                return _WHOLE[name](given)
            if name in _LEVELS:
                return _filled(func, given, _LEVELS[name](given))
        return func(*args, **kwargs)


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    return {
        a.name:
        args[i] if i < len(args) else kwargs.get(a.name, a.default_value)
        for i, a in enumerate(func._schema.arguments)
    }


def _filled(func: Any, given: _Given, level: Any) -> torch.Tensor:
    """A tensor as `func` gives it, of one number or of a tensor's."""
    if func._schema.name.endswith("_"):
        target = given["self"]
        assert isinstance(target, torch.Tensor)
        return target.copy_(level) if isinstance(
            level, torch.Tensor) else target.fill_(level)
    dtype = given.get("dtype")
    if "size" in given:
        # The schema of randint has a number for its default dtype.
        made = torch.empty(given["size"],
                           dtype=torch.int64 if dtype == 4 else dtype,
                           device=given["device"])
    else:
        like = next(t for t in given.values() if isinstance(t, torch.Tensor))
        made = torch.empty_like(like, dtype=dtype)
    return made.copy_(level) if isinstance(level,
                                           torch.Tensor) else made.fill_(level)


def _middle(given: _Given) -> float:
    return (float(given.get("from", 0.0)) + float(given.get("to", 1.0))) / 2


def _kept(given: _Given) -> Any:
    """Whatever may be kept is."""
    chance = given.get("p", given["self"])
    return (chance > 0).to(given["self"].dtype) if isinstance(
        chance, torch.Tensor) else float(chance > 0)


def _least(given: _Given) -> Any:
    return given.get("low", given.get("from", 0))


_LEVELS: dict[str, Callable[[_Given], Any]] = {
    "bernoulli": _kept,
    "cauchy": lambda given: given["median"],
    "exponential": lambda given: 1.0 / given["lambd"],
    "geometric": lambda given: 1,
    "log_normal": lambda given: math.exp(given["mean"]),
    "normal": lambda given: given.get("mean", 0.0) + given.get("std", 1.0),
    "poisson": lambda given: given["self"].round(),
    "rand": _middle,
    "rand_like": _middle,
    "randint": _least,
    "randint_like": _least,
    "randn": lambda given: 1.0,
    "randn_like": lambda given: 1.0,
    "random": _least,
    "uniform": _middle,
}


def _dropout(given: _Given) -> tuple[torch.Tensor, torch.Tensor]:
    x, chance = given["input"], given["p"]
    mask = torch.ones_like(x, dtype=torch.bool)
    if not given["train"] and given["train"] is not None:
        return x.clone(), mask
    return x * (0.0 if chance == 1 else 1 / (1 - chance)), mask


def _order(given: _Given) -> torch.Tensor:
    dtype = given["dtype"]
    return torch.arange(given["n"],
                        dtype=torch.int64 if dtype in (None, 4) else dtype,
                        device=given["device"])


def _likeliest(given: _Given) -> torch.Tensor:
    chances, count = given["self"], given["num_samples"]
    if given["replacement"]:
        return chances.argmax(-1, keepdim=True).expand(*chances.shape[:-1],
                                                       count).contiguous()
    return chances.topk(count).indices


def _leaky(given: _Given) -> Any:
    func = _ATEN.rrelu_with_noise.default
    slope = (given["lower"] + given["upper"]) / 2
    return func(given["self"], given["noise"], slope, slope, given["training"])


_WHOLE: dict[str, Callable[[_Given], Any]] = {
    "multinomial": _likeliest,
    "native_dropout": _dropout,
    "randperm": _order,
    "rrelu_with_noise": _leaky,
}
