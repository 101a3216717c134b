"""Price of a finished local program: every kernel, every collective.

The graph is what ``make_fx`` gives of a rank's differentiated program:
ATen kernels, forward and backward, and functional collectives. Nothing
here is shared with the prices the search compares, so that the two can be
held against each other.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from planner.cluster.axis import AxisInfo
from planner.cluster.spec import ClusterSpec, DeviceKind
from planner.cost.collective import collective_time_s
from planner.cost.expert_kernels import expert_exchanges
from planner.cost.kernels import kernel_flops
from planner.cost.roofline import memory_time_s, overlapped_s
from planner.cost.storage import storage_key, tensors_of
from planner.names import nearest

__all__ = [
    "CollectiveCost", "GraphCost", "NodeCost", "collective_kind",
    "cost_of_graph"
]

_NAMESPACES = ("_c10d_functional", "_c10d_functional_autograd", "_dtensor")
_KINDS = {
    "all_gather_into_tensor": "all_gather",
    "all_gather_into_tensor_coalesced": "all_gather",
    "all_gather_single": "all_gather",
    "all_reduce": "all_reduce",
    "all_reduce_coalesced": "all_reduce",
    "all_to_all_single": "all_to_all",
    "batch_p2p_ops": "send",
    "broadcast": "broadcast",
    "irecv": "send",
    "isend": "send",
    "reduce_scatter_single": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "shard_dim_alltoall": "all_to_all",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCost:
    """One kernel: its time, flops of products, bytes read and written."""

    node: str
    target: str
    time_s: float
    flops: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCost:
    """One collective.

    `size_bytes` is the larger of what one rank gives and gets, as in
    :mod:`planner.cost.collective`.
    """

    node: str
    kind: str
    axis: str
    size_bytes: int
    time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphCost:
    """The price of a graph, node by node in execution order."""

    nodes: tuple[NodeCost, ...]
    collectives: tuple[CollectiveCost, ...]

    @property
    def compute_s(self) -> float:
        """Time of all kernels."""
        return sum(node.time_s for node in self.nodes)

    @property
    def communication_s(self) -> float:
        """Time of all collectives."""
        return sum(c.time_s for c in self.collectives)

    @property
    def time_s(self) -> float:
        """Time of everything, one after the other: no overlap."""
        return self.compute_s + self.communication_s

    @property
    def flops(self) -> float:
        """Flops of products."""
        return sum(node.flops for node in self.nodes)

    @property
    def size_bytes(self) -> int:
        """Bytes that kernels read and write."""
        return sum(node.size_bytes for node in self.nodes)

    def bytes_by_axis(self) -> dict[str, int]:
        """Buffer bytes of the collectives of each axis, sorted by name."""
        total: dict[str, int] = {}
        for c in self.collectives:
            total[c.axis] = total.get(c.axis, 0) + c.size_bytes
        return dict(sorted(total.items()))


def collective_kind(target: Any) -> str | None:
    """Which collective an operator is; None for any other operator."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return None
    namespace, _, name = schema.name.partition("::")
    if namespace not in _NAMESPACES:
        return None
    return _KINDS.get(name.removesuffix("_"))


def cost_of_graph(graph: fx.GraphModule | fx.Graph, cluster: ClusterSpec,
                  axes: Mapping[str, AxisInfo]) -> GraphCost:
    """Price a local graph.

    Parameters
    ----------
    graph : fx.GraphModule or fx.Graph
        Every tensor node has ``meta["val"]``: a (fake) tensor or several.
        Nodes whose outputs share their inputs' storage are free.
    cluster : ClusterSpec
    axes : mapping of str to AxisInfo
        By the group name that the collectives are called with.

    Raises
    ------
    ValueError
        For a group that is not in `axes`, and for composite operators,
        which have no kernel of their own.
    """
    graph = getattr(graph, "graph", graph)
    nodes, collectives = [], []
    for node in graph.nodes:
        if node.op != "call_function" or node.target is operator.getitem:
            continue
        kind = collective_kind(node.target)
        if kind is not None:
            collectives.append(_collective_cost(node, kind, axes))
        elif not _is_free(node):
            nodes.append(_node_cost(node, cluster.device))
            collectives += _exchanges(node, axes)
    return GraphCost(nodes=tuple(nodes), collectives=tuple(collectives))


def _inputs(node: fx.Node) -> Iterator[torch.Tensor]:
    """Tensor inputs; one that is passed twice comes once."""
    for source in node.all_input_nodes:
        yield from tensors_of(source)


def _is_free(node: fx.Node) -> bool:
    """No kernel: no tensor result, or views of the inputs' storages."""
    name = str(node.target)
    if "wait_tensor" in name or not list(tensors_of(node)):
        return True
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.is_mutable:
        return False
    held = {storage_key(t) for t in _inputs(node)}
    return all(storage_key(t) in held for t in tensors_of(node))


def _read_bytes(tensor: torch.Tensor) -> int:
    # A broadcast view is larger than the memory behind it.
    size_bytes = tensor.numel() * tensor.element_size()
    return min(size_bytes, tensor.untyped_storage().nbytes())


def _traffic_bytes(node: fx.Node) -> int:
    written = sum(t.numel() * t.element_size() for t in tensors_of(node))
    inputs = list(_inputs(node))
    read = sum(map(_read_bytes, inputs))
    name = str(node.target)
    if name.startswith(("aten.embedding.", "aten.index.", "aten.gather.",
                        "aten.index_select.")):
        # Only the rows that are asked for are read.
        indices = sum(
            _read_bytes(t) for t in inputs if not t.is_floating_point())
        read = min(read, written + indices)
    return read + written


def _product_dtype(node: fx.Node) -> torch.dtype:
    for tensor in (*_inputs(node), *tensors_of(node)):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def _node_cost(node: fx.Node, device: DeviceKind) -> NodeCost:
    flops, kind = kernel_flops(node)
    size_bytes = _traffic_bytes(node)
    dtype = _product_dtype(node)
    compute_s = flops / (device.peak(dtype) *
                         device.efficiency(kind, dtype)) if flops else 0.0
    memory_s = memory_time_s(size_bytes, device)
    return NodeCost(
        node=node.name,
        target=str(node.target),
        time_s=float(
            overlapped_s(compute_s,
                         memory_s,
                         exposed=device.coefficient("exposed", 0.0))) +
        device.launch_overhead_s,
        flops=flops,
        size_bytes=size_bytes)


def _group_name(node: fx.Node) -> str:
    return str(node.kwargs.get("group_name") or node.args[-1])


def _exchanges(node: fx.Node, axes: Mapping[str,
                                            AxisInfo]) -> list[CollectiveCost]:
    """What experts that are spread over ranks send inside of their kernel."""
    return [
        CollectiveCost(node=node.name,
                       kind="all_to_all",
                       axis=axis,
                       size_bytes=size_bytes,
                       time_s=collective_time_s("all_to_all", size_bytes,
                                                axes[axis]))
        for axis, size_bytes in expert_exchanges(node)
    ]


def _collective_cost(node: fx.Node, kind: str,
                     axes: Mapping[str, AxisInfo]) -> CollectiveCost:
    axis = _group_name(node)
    if axis not in axes:
        raise ValueError(f"{node.name} ({node.target}) runs on group "
                         f"{axis!r}, which is no axis that has a link; "
                         f"{nearest(axis, axes)}")
    given = sum(t.numel() * t.element_size() for t in _inputs(node))
    gotten = sum(t.numel() * t.element_size() for t in tensors_of(node))
    size_bytes = max(given, gotten)
    return CollectiveCost(node=node.name,
                          kind=kind,
                          axis=axis,
                          size_bytes=size_bytes,
                          time_s=collective_time_s(kind, size_bytes,
                                                   axes[axis]))
