"""The model graph: ``torch.export`` under fake CPU tensors.

Capture is device-neutral. Parameters, buffers and inputs are replaced by
fake CPU tensors while the model is traced, whatever device (also meta) they
live on, so that nothing is computed and no device kernel is baked in.
"""

from __future__ import annotations

import contextlib
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from planner.capture.entry import Call, Entry
from planner.ir.errors import CaptureError

__all__ = ["export_model", "fake_like"]


def fake_like(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """A fake CPU tensor of the same shape, strides and dtype."""
    with mode:
        return torch.empty_strided(tensor.shape,
                                   tensor.stride(),
                                   dtype=tensor.dtype,
                                   device="cpu",
                                   requires_grad=False)


@contextlib.contextmanager
def _fake_state(model: nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Swap every parameter and buffer for a fake one, tied ones alike."""
    made: dict[int, torch.Tensor] = {}
    saved: list[tuple[dict[str, Any], str, Any]] = []
    for module in model.modules():
        for table, wrap in ((module._parameters, True), (module._buffers,
                                                         False)):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                saved.append((table, name, tensor))
                if id(tensor) not in made:
                    fake = fake_like(tensor, mode)
                    made[id(tensor)] = nn.Parameter(
                        fake,
                        requires_grad=tensor.requires_grad) if wrap else fake
                table[name] = made[id(tensor)]
    try:
        yield
    finally:
        for table, name, tensor in saved:
            table[name] = tensor


class _InlineCheckpoint:
    """Stands in for reentrant checkpointing, whose tracing loses grads."""

    @staticmethod
    def apply(run: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        del preserve
        return run(*args)


@contextlib.contextmanager
def _inlined_checkpoints() -> Iterator[None]:
    saved = torch.utils.checkpoint.CheckpointFunction
    torch.utils.checkpoint.CheckpointFunction = _InlineCheckpoint  # type: ignore
    try:
        yield
    finally:
        torch.utils.checkpoint.CheckpointFunction = saved  # type: ignore


def export_model(model: nn.Module, call: Call,
                 loss_fn: Callable[..., Any] | None,
                 mode: FakeTensorMode) -> tuple[Entry, ExportedProgram]:
    """Export the model as one functional forward graph.

    Returns
    -------
    entry : Entry
        Knows the structure of the outputs.
    exported : ExportedProgram
        Functional pre-dispatch ATen with composite operators kept whole;
        values made under ``torch.no_grad`` pass through ``aten.detach``.

    Raises
    ------
    CaptureError
        With the line of the user's model that could not be traced.
    """
    entry = Entry(model, call, loss_fn)
    fakes = tuple(fake_like(t, mode) for t in call.tensors)
    try:
        with _fake_state(model, mode), _inlined_checkpoints(), \
                warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(entry, fakes, strict=False)
            _reject_fake_constants(exported)
            _detach_no_grad_regions(exported.graph_module)
            exported = exported.run_decompositions({})
    except CaptureError:
        raise
    except Exception as error:
        raise _explain(model, error) from error
    return entry, exported


def _reject_fake_constants(exported: ExportedProgram) -> None:
    for spec in exported.graph_signature.input_specs:
        name = spec.target or ""
        if spec.kind is InputKind.CONSTANT_TENSOR and isinstance(
                exported.constants[name], FakeTensor):
            raise CaptureError(
                f"the model turns a traced value into a constant ({name}): "
                "`.data`, `torch.tensor(traced)` or a tensor kept in a "
                "global do that; use `.detach()` and buffers instead")


def _detach_no_grad_regions(module: torch.fx.GraphModule) -> None:
    """Make ``torch.no_grad`` regions explicit before they are inlined."""
    for node in list(module.graph.nodes):
        if node.target is not torch.ops.higher_order.wrap_with_set_grad_enabled:
            continue
        region = getattr(module, node.args[1].target)
        _detach_no_grad_regions(region)
        if node.args[0]:
            continue
        output = region.graph.output_node()
        with region.graph.inserting_before(output):
            output.args = (tuple(
                _detached(region.graph, value) for value in output.args[0]), )
        region.recompile()
    module.recompile()


def _detached(graph: torch.fx.Graph, value: Any) -> Any:
    fake = value.meta.get("val") if isinstance(value, torch.fx.Node) else None
    if not isinstance(fake, torch.Tensor) or not fake.is_floating_point():
        return value
    node = graph.call_function(torch.ops.aten.detach.default, (value, ))
    node.meta = dict(value.meta)
    return node


def _explain(model: nn.Module, error: Exception) -> CaptureError:
    """Name the user's line and what to try."""
    where = _user_line(error)
    text = str(error).strip().splitlines()
    reason = text[0] if text else type(error).__name__
    advice = "rewrite that line with tensor operations of fixed shape"
    if _is_data_dependent(error):
        reason = "control flow or a shape depends on the values of a tensor"
        advice = ("use torch.where, a mask of fixed shape or torch.cond; for "
                  "mixtures of experts choose a grouped or batched "
                  "implementation (config.experts_implementation)")
    return CaptureError(f"cannot capture {type(model).__name__}: {reason}; "
                        f"at {where}; {advice}")


def _is_data_dependent(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}"
    return bool(
        re.search(
            "data.dependent|DataDependent|GuardOnDataDependent|item\\(\\)|"
            "DynamicOutputShape|nonzero|Could not guard", text))


def _user_line(error: BaseException) -> str:
    """The innermost frame that belongs to no part of torch."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if "/torch/" not in f.filename
        and "<" not in f.filename and "/planner/capture/" not in f.filename
    ]
    if not own:
        return "an unknown line"
    frame = own[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
