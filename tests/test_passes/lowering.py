"""Small programs under written plans, lowered for one rank or all."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from passes.collectives import AxisRef
from passes.differentiate import differentiate
from passes.insert_collectives import insert_collectives
from passes.localize_shapes import localize_shapes
from passes.lower import lower
from passes.split_backward import split_backward
from passes.steps import RankProgram
from passes.text import joint_text, local_text
from planner.capture.capture import capture
from planner.ir.layouts import ProgramLayout
from planner.ir.plan import Plan
from planner.ir.program import Program

__all__ = [
    "DATA", "MEGATRON", "Perceptron", "SEQUENCE", "dumped", "lowered",
    "planned", "stages"
]


class Perceptron(nn.Module):
    """Two layers with a norm in front, on (batch, sequence, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.up = nn.Linear(4, 8, bias=False)
        self.down = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


MEGATRON = """
version: 1
model: Perceptron
mesh: {tp: 2}
axes: {tp: megatron}
at_rest:
  up.weight: S(0)
  down.weight: S(1)
regather: []
blocks:
  Perceptron:
    hold up.weight: S(0)
    hold down.weight: S(1)
    up.linear: V,S(0)->S(2)
    gelu: S(2)->S(2)
    down.linear: S(2),S(1),V->P [linear_row_bias]
    hold down.linear: R
"""
"""Columns of the first layer, rows of the second."""

SEQUENCE = """
version: 1
model: Perceptron
mesh: {tp: 2}
axes: {tp: megatron}
at_rest:
  input args[0]: S(1)
  up.weight: S(0)
  down.weight: S(1)
regather: []
blocks:
  Perceptron:
    hold in: S(1)
    hold up.weight: S(0)
    hold down.weight: S(1)
    norm.layer_norm: S(1),V,V->S(1)
    up.linear: V,S(0)->S(2)
    gelu: S(2)->S(2)
    down.linear: S(2),S(1),P->P
    hold down.linear: S(1)
    add: S(1),S(1)->S(1)
    mul: S(1),S(1)->S(1)
    mean: S(1)->P [mean_partial]
    hold mean: R
"""
"""The same, the sequence sharded in between."""

DATA = """
version: 1
model: Perceptron
mesh: {dp: 2}
axes: {dp: fsdp}
at_rest:
  input args[0]: S(0)
  up.weight: S(0)
  down.weight: S(0)
regather: [up.weight, down.weight]
blocks:
  Perceptron:
    hold in: S(0)
    hold norm.weight: V
    hold norm.bias: V
    hold up.weight: V
    hold down.weight: V
    hold down.bias: V
    norm.layer_norm: S(0),V,V->S(0)
    up.linear: S(0),V->S(0)
    gelu: S(0)->S(0)
    down.linear: S(0),V,V->S(0)
    add: S(0),S(0)->S(0)
    mul: S(0),S(0)->S(0)
    mean: S(0)->P [mean_partial]
"""
"""Samples; the two large weights rest sharded."""

CPU = torch.device("cpu")


@functools.cache
def planned(text: str) -> tuple[Program, ProgramLayout]:
    """The perceptron's program and its layouts by a plan's text."""
    torch.manual_seed(0)
    program = capture(Perceptron(), (torch.randn(2, 4, 4), ),
                      loss_fn=lambda y: (y * y).mean())
    return program, Plan.from_yaml(text).resolve(program)


def lowered(text: str, rank: int = 0) -> RankProgram:
    """What one rank runs under a plan's text."""
    return lower(*planned(text), rank, device=CPU)


def dumped(text: str) -> dict[str, str]:
    """What lowering writes for rank 0: file name to text."""
    with tempfile.TemporaryDirectory() as folder:
        lower(*planned(text), 0, device=CPU, dump_dir=Path(folder))
        return {
            path.name: path.read_text(encoding="utf-8")
            for path in sorted(Path(folder).iterdir())
        }


def stages(text: str) -> dict[str, str]:
    """The perceptron's block after each pass alone, for rank 0."""
    program, layout = planned(text)
    mesh = layout.mesh
    inserted = insert_collectives(program.classes["Perceptron"],
                                  layout.classes["Perceptron"], mesh, {})
    local = localize_shapes(inserted, mesh)
    axes = [
        AxisRef(name=n, size=s, coordinate=0)
        for n, s in zip(mesh.names, mesh.sizes, strict=True)
    ]
    joint = differentiate(local,
                          axes,
                          device=CPU,
                          specs=[(n.meta["spec"], n.meta["layout"])
                                 for n in local.nodes
                                 if n.op == "placeholder"])
    split = split_backward(joint)
    assert split.backward is not None
    return {
        "insert_collectives": local_text(inserted, mesh),
        "localize_shapes": local_text(local, mesh),
        "differentiate": joint_text(joint.graph),
        "split_forward": joint_text(split.forward),
        "split_backward": joint_text(split.backward)
    }
