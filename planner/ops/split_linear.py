"""A linear product whose features are cut into parts, as one operator.

``scaletorch::split_linear(x, weight, bias, sizes, out_dim)`` is
``(x @ weight + bias).split(sizes, -1)``. `out_dim` is the weight's dim that
holds the features: 0 as in ``nn.Linear``, 1 as in a plain product. It is
whole in captured programs, where the parts are what is sharded, and one
product and views of it when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["split_linear"]


def split_linear(x: torch.Tensor, weight: torch.Tensor,
                 bias: torch.Tensor | None, sizes: Sequence[int],
                 out_dim: int) -> list[torch.Tensor]:
    """The parts of a product.

    Parameters
    ----------
    x : Tensor of shape (..., k)
    weight : Tensor of shape (n, k), or (k, n) if `out_dim` is 1
    bias : Tensor of shape (n, ), optional
    sizes : sequence of int
        Of the parts; their sum is n.
    out_dim : int
    """
    matrix = weight if out_dim == 0 else weight.t()
    whole = torch.ops.aten.linear.default(x, matrix, bias)
    return list(whole.split_with_sizes(list(sizes), -1))


torch.library.define(
    "scaletorch::split_linear", "(Tensor x, Tensor weight, Tensor? bias, "
    "int[] sizes, int out_dim) -> Tensor[]")
torch.library.impl("scaletorch::split_linear", "CompositeImplicitAutograd",
                   split_linear)
