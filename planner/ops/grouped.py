"""Products of groups of rows, one matrix for each group."""

from __future__ import annotations

import torch

__all__ = ["per_group", "rows_by_matrix", "rows_by_rows"]

_ALIGNMENT_BYTES = 16


def rows_by_matrix(rows: torch.Tensor, matrices: torch.Tensor,
                   ends: torch.Tensor) -> torch.Tensor:
    """Every group of rows times its matrix.

    Parameters
    ----------
    rows : Tensor
        (n, k), sorted by group.
    matrices : Tensor
        (groups, k, m).
    ends : Tensor
        (groups,) int32: where each group ends.
    """
    if _has_kernel(rows, matrices):
        return torch._grouped_mm(rows, matrices, offs=ends)
    out = rows.new_empty((rows.shape[0], matrices.shape[2]))
    start = 0
    for group, end in enumerate(ends.tolist()):
        torch.mm(rows[start:end], matrices[group], out=out[start:end])
        start = end
    return out


def rows_by_rows(left: torch.Tensor, right: torch.Tensor,
                 ends: torch.Tensor) -> torch.Tensor:
    """Of every group, ``left^T right``: (groups, k, m); zeros if empty."""
    out = left.new_zeros((ends.shape[0], left.shape[1], right.shape[1]))
    start = 0
    if left.device.type != "cpu" and _has_kernel(left, right):
        return torch._grouped_mm(left.t(), right, offs=ends)
    for group, end in enumerate(ends.tolist()):
        if end > start:
            torch.mm(left[start:end].t(), right[start:end], out=out[group])
        start = end
    return out


def per_group(values: torch.Tensor, ends: torch.Tensor,
              rows: int) -> torch.Tensor:
    """Of every row, the value of its group: (rows, ...)."""
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    return values.repeat_interleave(counts, 0, output_size=rows)


def _has_kernel(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether torch has one kernel for all groups, and it takes these."""
    narrow = left.dtype == torch.bfloat16 or (left.device.type == "cpu"
                                              and left.dtype == torch.float32)
    return narrow and left.shape[0] > 0 and all(
        _is_aligned(x) for x in (left, right))


def _is_aligned(x: torch.Tensor) -> bool:
    """Whether rows (or columns) start where the kernel can load them."""
    if x.data_ptr() % _ALIGNMENT_BYTES:
        return False
    strides = sorted(x.stride()[-2:])
    return strides[0] == 1 and (strides[1] *
                                x.element_size()) % _ALIGNMENT_BYTES == 0
