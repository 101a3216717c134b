"""The passes over one block class, in order, with checks in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx

from passes.collectives import AxisRef
from passes.conversions import conversion_nodes
from passes.differentiate import differentiate
from passes.insert_collectives import insert_collectives
from passes.kernel_cache import kernel_of
from passes.localize_shapes import localize_shapes
from passes.merge_collectives import merge_collectives
from passes.overlap import overlap
from passes.recompute import recompute_of
from passes.split_backward import SplitBlock, split_backward
from passes.steps import Kernel
from passes.text import joint_text, local_text
from passes.verify import verify_conversions, verify_kernel, verify_local
from planner.ir.convert import Step
from planner.ir.layout import Layout
from planner.ir.layouts import ClassLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import BlockClass
from planner.rules.registry import TensorSpec

__all__ = ["PASS_ORDER", "KernelBuilder"]

PASS_ORDER = ("insert_collectives", "localize_shapes", "differentiate",
              "merge_collectives", "split_forward", "split_backward")
"""The printed stages of a kernel, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBuilder:
    """Lowers graphs for one rank.

    Parameters
    ----------
    mesh : MeshSpec
    axes : tuple of AxisRef
        The rank's place on the mesh.
    device : torch.device
        Whose kernels are recorded.
    dump_dir : Path, optional
        Folder for the printed graphs.
    recompute : frozenset of str
        Block classes whose forward runs again in the backward.
    """

    mesh: MeshSpec
    axes: tuple[AxisRef, ...]
    device: torch.device
    dump_dir: Path | None = None
    recompute: frozenset[str] = frozenset()

    def of_class(self, block_class: BlockClass, layout: ClassLayout,
                 arrives: Mapping[str,
                                  Layout], live: Collection[int]) -> Kernel:
        """Lower a block class.

        Parameters
        ----------
        block_class : BlockClass
        layout : ClassLayout
        arrives : mapping of str to Layout
            Layouts of placeholders (by label) that are not their hubs.
        live : collection of int
            Results that a gradient may reach.
        """
        if self.dump_dir is not None:
            return self._of_class(block_class, layout, arrives, live)
        name = block_class.name
        key = (name, name in self.recompute, layout, dict(arrives),
               frozenset(live), self.mesh, self.device)
        return kernel_of(
            block_class.graph, key, self.axes,
            lambda axes: dataclasses.replace(self, axes=axes)._of_class(
                block_class, layout, arrives, live))

    def _of_class(self, block_class: BlockClass, layout: ClassLayout,
                  arrives: Mapping[str,
                                   Layout], live: Collection[int]) -> Kernel:
        name = block_class.name
        graph = insert_collectives(block_class, layout, self.mesh, arrives)
        self._dump(0, name, local_text(graph, self.mesh))
        verify_conversions(graph, self.mesh)
        graph = localize_shapes(graph, self.mesh,
                                [a.divisor for a in self.axes])
        self._dump(1, name, local_text(graph, self.mesh))
        verify_local(graph, self.mesh)
        specs = [(n.meta["spec"], n.meta["layout"]) for n in graph.nodes
                 if n.op == "placeholder"]
        return self._split(name, graph, specs, live)

    def of_conversion(self, name: str, spec: TensorSpec,
                      steps: Sequence[Step]) -> Kernel:
        """Lower a change of layout between blocks."""
        graph = fx.Graph()
        node = graph.placeholder("value")
        made = conversion_nodes(graph, node, steps, self.mesh)
        graph.output((made[-1], ))
        return self._split(name, graph, [(spec, steps[0].before)], {0})

    def _split(self, name: str, graph: fx.Graph,
               specs: Sequence[tuple[TensorSpec, Layout]],
               live: Collection[int]) -> Kernel:
        joint = differentiate(graph,
                              self.axes,
                              device=self.device,
                              specs=specs,
                              wanted=live)
        self._dump(2, name, joint_text(joint.graph))
        joint = merge_collectives(joint)
        self._dump(3, name, joint_text(joint.graph))
        train = _overlapped(
            split_backward(joint, recompute=recompute_of(name,
                                                         self.recompute)))
        kernel = Kernel(name=name, train=train, infer=train.forward_only())
        self._dump(4, name, joint_text(kernel.train.forward))
        if kernel.train.backward is not None:
            self._dump(5, name, joint_text(kernel.train.backward))
        verify_kernel(kernel, self.mesh)
        return kernel

    def _dump(self, stage: int, name: str, text: str) -> None:
        if self.dump_dir is None:
            return
        safe = "".join(c if c.isalnum() else "_" for c in name)
        self.dump_dir.mkdir(parents=True, exist_ok=True)
        path = self.dump_dir / f"{stage:02}_{PASS_ORDER[stage]}.{safe}.txt"
        path.write_text(f"{text}\n", encoding="utf-8")


def _overlapped(split: SplitBlock) -> SplitBlock:
    return dataclasses.replace(
        split,
        forward=overlap(split.forward),
        backward=None if split.backward is None else overlap(split.backward))
