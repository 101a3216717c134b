"""Targets of CTC that a mask chooses, as rows of a matrix.

``F.ctc_loss(x, labels[mask], lengths, mask.sum(-1))`` has the labels of all
samples one after the other, in a shape that depends on the mask. The same
labels at the begin of each sample's row have a known one, and a batch that can
be divided.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx

import planner.ops  # noqa: F401 (registers the operator)
from planner.capture.calls import add_call
from planner.capture.masked_loss import chosen_rows, same_values

__all__ = ["keep_targets_in_rows"]

_aten = torch.ops.aten
_LOSS = torch.ops.scaletorch.ctc_loss.default


def keep_targets_in_rows(graph: fx.Graph) -> None:
    """Rewrite such losses in place."""
    for node in list(graph.find_nodes(op="call_function", target=_LOSS)):
        log_probs, targets, lengths, counts, *rest = node.args
        found = _chosen(targets)
        if found is None:
            continue
        labels, mask = found
        shape = labels.meta["val"].shape
        if len(shape) != 2 or shape != mask.meta["val"].shape \
                or shape[0] != log_probs.meta["val"].shape[1] \
                or not _counts(counts, mask):
            continue
        with graph.inserting_before(node):
            in_rows = _to_the_left(node, labels, mask)
        node.args = (log_probs, in_rows, lengths, counts, *rest)


def _chosen(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The tensor and the mask that choose a vector."""
    if node.target is _aten.masked_select.default:
        labels, mask = node.args
        return labels, mask
    return chosen_rows(node)


def _counts(node: Any, mask: fx.Node) -> bool:
    """Whether it is how many the mask has in each row."""
    return (node.target is _aten.sum.dim_IntList
            and same_values(node.args[0], mask)
            and list(node.args[1]) in ([-1], [1]) and not any(node.args[2:]))


def _to_the_left(loss: fx.Node, labels: fx.Node, mask: fx.Node) -> fx.Node:
    """Each row with its chosen ones first, in their order."""
    add = functools.partial(add_call, loss.graph, like=loss)
    left_out = add(_aten.logical_not.default, (mask, ))
    order = add(_aten.argsort.stable,
                (add(_aten._to_copy.default,
                     (left_out, ), {"dtype": torch.int64}), ),
                {"stable": True})
    return add(_aten.gather.default, (labels, 1, order))
