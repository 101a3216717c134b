"""Run a captured program as it is, on real tensors, one process.

This is what says that a capture is right: its outputs, gradients and
buffer updates must be those of the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from planner.ir.program import Block, Program

__all__ = ["model_values", "run"]

# Strides follow the kernels: a real one may give others than a fake one.
_RUN_AS = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}


def model_values(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's parameters and buffers under their global names."""
    values: dict[str, torch.Tensor] = {
        f"param:{name}": tensor
        for name, tensor in model.named_parameters()
    }
    return values | {f"buffer:{n}": t for n, t in model.named_buffers()}


def run(
    program: Program, values: Mapping[str, torch.Tensor],
    inputs: Sequence[torch.Tensor]
) -> tuple[tuple[Any, ...], dict[str, torch.Tensor]]:
    """Execute the program's blocks in order, under ordinary autograd.

    Parameters
    ----------
    program : Program
    values : mapping of str to Tensor
        Every parameter and buffer by global name (`model_values`); they
        are read, never written.
    inputs : sequence of Tensor
        The tensor leaves of the call, in order, of the captured shapes.

    Returns
    -------
    outputs : tuple
        The output leaves: tensors, and constants where the model returned
        something else. ``pytree.tree_unflatten(outputs,
        program.output_tree)`` is what the model returns.
    mutations : dict of str to Tensor
        What the model would have written to its buffers, and to its
        parameters, by global name.
    """
    known = dict(program.constants)
    known.update(values)
    positions = [i for i, leaf in enumerate(program.leaves) if leaf.spec]
    known.update((f"input:{i}", tensor)
                 for i, tensor in zip(positions, inputs, strict=True))
    device = _device(known)
    for name in program.constants:
        known[name] = known[name].to(device)
    rewritten = program.rewrites.values(known) if program.rewrites else {}
    for name, value in rewritten.items():
        old = known[name]
        known[name] = old + (value - old).detach()
    for block in program.blocks:
        known.update(_run_block(program, block, known, device))
    outputs = tuple(
        constant if name is None else known[name] for name, constant in zip(
            program.outputs, program.output_constants, strict=True))
    return outputs, rewritten | {
        b: known[v]
        for b, v in program.mutations.items()
    }


def _device(known: Mapping[str, torch.Tensor]) -> torch.device:
    """Where most of the program lives: the first parameter's device."""
    kinds = ("param:", "buffer:", "input:")
    return next((t.device for n, t in known.items() if n.startswith(kinds)),
                torch.device("cpu"))


def _run_block(program: Program, block: Block, known: Mapping[str,
                                                              torch.Tensor],
               device: torch.device) -> dict[str, torch.Tensor]:
    cls = program.class_of(block)
    env: dict[fx.Node, Any] = dict(
        zip(cls.placeholders, (known[n] for n in block.operands), strict=True))
    for node in cls.calls:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.get)
        run_node = _RUN_AS.get(node.target, node.target)
        env[node] = run_node(*args, **_on_device(kwargs, device))
    return dict(zip(block.results, (env[n] for n in cls.results), strict=True))


def _on_device(kwargs: Mapping[str, Any],
               device: torch.device) -> dict[str, Any]:
    """Capture is done for the CPU; factories follow the tensors."""
    return pytree.tree_map_only(torch.device, lambda _: device, dict(kwargs))
