"""Global sizes among a call's arguments, replaced by local ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

import planner.ops  # noqa: F401 (registers the operator)
from planner.rules.registry import OpCall

__all__ = ["localize"]

aten = torch.ops.aten

Shape = Sequence[int]

_SHAPE_POSITION = {
    aten._unsafe_view.default: 1,
    aten.broadcast_to.default: 1,
    aten.empty.memory_format: 0,
    aten.expand.default: 1,
    aten.full.default: 0,
    aten.new_empty.default: 1,
    aten.new_full.default: 1,
    aten.new_ones.default: 1,
    aten.new_zeros.default: 1,
    aten.ones.default: 0,
    aten.rand.default: 0,
    aten.randint.default: 1,
    aten.randint.low: 2,
    aten.randn.default: 0,
    aten.reshape.default: 1,
    aten.view.default: 1,
    aten.zeros.default: 0,
}
"""Which positional argument of an operator is the shape of its output."""


def localize(
    call: OpCall, local_output_shapes: Sequence[Shape]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments with local sizes.

    Parameters
    ----------
    call : OpCall
        With global shapes.
    local_output_shapes : sequence of shapes
        What one rank holds of each tensor output.

    Returns
    -------
    args, kwargs
        Tensors still stand as ``Arg(i)``.

    Raises
    ------
    ValueError
        When groups of channels would be cut.

    Examples
    --------
    >>> import torch
    >>> from planner.rules.registry import Arg, TensorSpec
    >>> spec = TensorSpec(shape=(4, 6), dtype=torch.float32)
    >>> flat = TensorSpec(shape=(24,), dtype=torch.float32)
    >>> call = OpCall(target=torch.ops.aten.view.default,
    ...               args=(Arg(0), [24]), kwargs={}, inputs=(spec, ),
    ...               outputs=(flat, ))
    >>> localize(call, [(12, )])
    ((Arg(index=0), [12]), {})
    """
    shapes = [tuple(s) for s in local_output_shapes]
    if shapes == [s.shape for s in call.outputs]:
        return call.args, dict(call.kwargs)
    args = list(call.args)
    if call.target in _SHAPE_POSITION:
        return _with_shape(call, shapes[0])
    if call.target in _SPECIAL:
        _SPECIAL[call.target](call, args, shapes[0])
    # A hint that saves a synchronisation; right only for the global size.
    kwargs = {k: v for k, v in call.kwargs.items() if k != "output_size"}
    return tuple(args), kwargs


def _with_shape(call: OpCall,
                shape: Shape) -> tuple[tuple[Any, ...], dict[str, Any]]:
    position = _SHAPE_POSITION[call.target]
    args, kwargs = list(call.args), dict(call.kwargs)
    if position < len(args):
        args[position] = list(shape)
    else:
        kwargs["size"] = list(shape)
    return tuple(args), kwargs


def _unflatten(call: OpCall, args: list[Any], shape: Shape) -> None:
    first = args[1] % call.inputs[0].ndim
    args[2] = list(shape[first:first + len(args[2])])


def _repeat(call: OpCall, args: list[Any], shape: Shape) -> None:
    """Only dims made of one element may be sharded by repeating less."""
    source, target = call.inputs[0].shape, call.outputs[0].shape
    own = (1, ) * (len(target) - len(source)) + source
    repeats = [1] * (len(target) - len(args[1])) + list(args[1])
    args[1] = [
        local if size == 1 else n
        for n, size, local in zip(repeats, own, shape, strict=True)
    ]


def _groups(position: int) -> Callable[[OpCall, list[Any], Shape], None]:
    """Groups of channels: the output's dim 1."""

    def scale(call: OpCall, args: list[Any], shape: Shape) -> None:
        if len(args) <= position:
            return
        whole, local = call.outputs[0].shape[1], shape[1]
        if args[position] == 1 or whole == local:
            return
        groups, rest = divmod(args[position] * local, whole)
        if rest:
            raise ValueError(
                f"{call.target}: {args[position]} groups of {whole} channels "
                f"cannot be cut to {local} channels; shard over a number of "
                "ranks that divides the groups")
        args[position] = groups

    return scale


def _native_group_norm(call: OpCall, args: list[Any], shape: Shape) -> None:
    """Sizes of samples, channels and the rest are arguments of their own."""
    _groups(6)(call, args, shape)
    args[3:5] = shape[:2]


def _split(call: OpCall, args: list[Any], shape: Shape) -> None:
    """All parts are cut alike, if at all."""
    dim = call.arg(2, "dim", 0)
    whole = call.outputs[0].shape[dim], shape[dim]
    size = args[1]
    args[1] = (_scaled(size, *whole) if isinstance(size, int) else
               [_scaled(s, *whole) for s in size])


def _split_linear(call: OpCall, args: list[Any], shape: Shape) -> None:
    """All parts are cut alike."""
    whole = args[3][0]
    args[3] = [_scaled(size, whole, shape[-1]) for size in args[3]]


def _scaled(size: int, whole: int, local: int) -> int:
    """The part of `size` that `local` is of `whole`."""
    part, rest = divmod(size * local, whole)
    if rest:
        raise ValueError(f"a part of {size} can't be cut as {whole} is to "
                         f"{local}")
    return part


_SPECIAL: dict[Any, Callable[[OpCall, list[Any], Shape], None]] = {
    aten.unflatten.int: _unflatten,
    aten.repeat.default: _repeat,
    aten.tile.default: _repeat,
    aten.group_norm.default: _groups(1),
    aten.native_group_norm.default: _native_group_norm,
    aten.conv1d.default: _groups(6),
    aten.conv1d.padding: _groups(6),
    aten.conv2d.default: _groups(6),
    aten.conv2d.padding: _groups(6),
    aten.conv3d.default: _groups(6),
    aten.conv3d.padding: _groups(6),
    aten.convolution.default: _groups(8),
    aten.conv_transpose1d.default: _groups(6),
    aten.conv_transpose2d.input: _groups(6),
    aten.conv_transpose3d.input: _groups(6),
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    torch.ops.scaletorch.split_linear.default: _split_linear,
}
