"""How much of a program's results is rounding.

Sums that cancel, norms of nearly equal numbers and deep stacks of both
make small errors large, up to a gradient that is zero but for rounding. A
mesh rounds in other places. By how much results may differ for that alone is
found by random rounding (D. S. Parker, Monte Carlo Arithmetic, UCLA
CSD-970002, 1997): the single-device program runs again, and what each of
its operators gives is changed by a unit in the last place, up or down. So
the change of a sum is as large as the terms that were summed make it, also
where the sum is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["magnitude", "rounding"]

_Values = Mapping[str, torch.Tensor]

_RUNS = 2


def rounding(observe: Callable[[], _Values],
             expected: _Values) -> dict[str, float]:
    """The largest change of each output and gradient by rounding.

    Parameters
    ----------
    observe : callable
        Runs the single-device program; outputs and gradients by name.
    expected : mapping of str to Tensor
        What it gave.

    Returns
    -------
    dict of str to float
        In units of the values themselves.
    """
    found = dict.fromkeys(expected, 0.0)
    for run in range(_RUNS):
        with _RoundedAnew(run):
            other = observe()
        for name, value in expected.items():
            if name in other and other[name].shape == value.shape:
                found[name] = max(found[name], _change(value, other[name]))
    return found


class _RoundedAnew(TorchDispatchMode):
    """Changes results of operators in their last place.

    Whole numbers stay: they are exact, and masks are compared with them.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self,
                           func: Any,
                           types: Any,
                           args: Any = (),
                           kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        if func.namespace != "aten" or func.is_view \
                or func._schema.is_mutable or func.overloadpacket in _EXACT:
            return out
        return pytree.tree_map_only(torch.Tensor, self._rounded, out)

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            return x
        up = torch.randint(2,
                           x.shape,
                           generator=self._generator(x.device),
                           device=x.device)
        factor = 1 + torch.finfo(x.dtype).eps * (2 * up - 1).to(x.dtype)
        return torch.where(x == x.round(), x, x * factor)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            made = torch.Generator(device).manual_seed(self._seed)
            self._generators[device] = made
        return self._generators[device]


_EXACT = frozenset(
    getattr(torch.ops.aten, name)
    for name in ("clone", "_to_copy", "cat", "stack", "gather", "embedding",
                 "index_select", "masked_fill", "constant_pad_nd", "repeat"))
"""What only moves values."""


def _change(a: torch.Tensor, b: torch.Tensor) -> float:
    if not a.is_floating_point() and not a.is_complex():
        return 0.0
    wide = torch.complex128 if a.is_complex() else torch.float64
    return magnitude(a.to(wide) - b.to(wide))


def magnitude(x: torch.Tensor) -> float:
    """The largest absolute value; what is no number counts as zero."""
    return float(x.abs().nan_to_num().max()) if x.numel() else 0.0
