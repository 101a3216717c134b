"""Fourier transforms and complex views: linear, along whole dims."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from planner.rules.dims import keep, others
from planner.rules.factors import partial
from planner.rules.registry import OpCall, Option, register

__all__ = ["complex_view", "transform", "windowed"]

aten = torch.ops.aten

_LAST = {
    op: (2, -1)
    for op in (aten.fft_fft.default, aten.fft_ifft.default,
               aten.fft_rfft.default, aten.fft_irfft.default,
               aten.fft_hfft.default, aten.fft_ihfft.default)
}
_LAST_TWO = {
    op: (2, (-2, -1))
    for op in (aten.fft_fft2.default, aten.fft_ifft2.default,
               aten.fft_rfft2.default, aten.fft_irfft2.default)
}
_NAMED = {
    aten.fft_fftn.default: (2, None),
    aten.fft_ifftn.default: (2, None),
    aten.fft_rfftn.default: (2, None),
    aten.fft_irfftn.default: (2, None),
    aten._fft_c2c.default: (1, None),
    aten._fft_c2r.default: (1, None),
    aten._fft_r2c.default: (1, None),
    aten.fft_fftshift.default: (1, None),
    aten.fft_ifftshift.default: (1, None),
}
_DIMS = {**_LAST, **_LAST_TWO, **_NAMED}
"""Position and default of the transformed dims; None: all of them."""


@register(*_DIMS)
def transform(call: OpCall) -> Iterable[Option]:
    """Every dim that is not transformed."""
    position, default = _DIMS[call.target]
    dims = call.arg(position, "dim", default)
    if dims is not None:
        named = (dims, ) if isinstance(dims, int) else tuple(dims)
        yield from keep(call, others(call, *named))
    yield partial(call)


@register(aten.stft.default, aten.istft.default)
def windowed(call: OpCall) -> Iterable[Option]:
    """Each signal of a batch by itself; the window is whole."""
    inverse = call.target is aten.istft.default
    if call.inputs[0].ndim == 2 + inverse:
        yield from keep(call, (0, ))


@register(aten.view_as_complex.default, aten.view_as_real.default,
          aten.real.default, aten.imag.default, aten._conj.default,
          aten.resolve_conj.default)
def complex_view(call: OpCall) -> Iterable[Option]:
    """Every dim but the one of real and imaginary parts."""
    last = (-1, ) if call.target is aten.view_as_complex.default else ()
    yield from keep(call, others(call, *last))
    yield partial(call)
