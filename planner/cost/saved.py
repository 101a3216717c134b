"""What autograd keeps of one call for its backward.

The formulas of derivatives.yaml in PyTorch, for the operators that a
captured training program holds; a fused kernel is assumed where the
device has one (attention and norms store their statistics only).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from planner.cost.experts import expert_sizes
from planner.cost.flops import contraction, op_name
from planner.rules.registry import Arg, OpCall

__all__ = ["Saved", "is_view", "saved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """Tensors kept from the forward to the backward.

    Parameters
    ----------
    inputs, outputs : tuple of int
        Which of the call's tensors are kept. Parameters are among them
        where the backward reads them. Two calls that keep the same tensor
        keep it once: sum over distinct tensors, not over calls.
    extra_bytes : int
        What is kept besides (statistics, masks).
    """

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    extra_bytes: int = 0

    def size_bytes(self, call: OpCall) -> int:
        """All bytes that this call alone would keep."""
        return (self.extra_bytes + sum(call.inputs[i].size_bytes
                                       for i in self.inputs) +
                sum(call.outputs[i].size_bytes for i in self.outputs))


_NOTHING = frozenset(
    "add sub rsub neg sum mean cat stack clone contiguous _to_copy to "
    "masked_fill_ pad constant_pad_nd roll flip cumsum zeros_like ones_like "
    "full_like empty_like floor ceil round sign trunc tril triu lift_fresh "
    "_unsafe_view alias detach view_as_complex view_as_real avg_pool1d "
    "avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "_adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d "
    "pixel_shuffle im2col repeat repeat_interleave".split())
_OUTPUT = frozenset(
    "relu sigmoid tanh exp sqrt rsqrt reciprocal softmax _softmax log_softmax "
    "_log_softmax hardtanh expm1 relu6".split())
_INPUT = frozenset(
    "gelu silu pow sin cos tan log log2 log1p abs erf leaky_relu softplus "
    "clamp clamp_min clamp_max mish hardswish hardsigmoid elu selu celu var "
    "std var_mean square logsigmoid log_sigmoid_forward glu".split())
_BOTH = frozenset("amax amin logsumexp norm linalg_vector_norm prod".split())
_INDEX = frozenset(
    "embedding index index_select scatter scatter_add index_put "
    "masked_fill index_add masked_scatter where".split())
_CHOSEN = frozenset(
    "max min topk sort kthvalue median cummax max_pool2d_with_indices "
    "native_dropout".split())
_NORMS = frozenset("layer_norm rms_norm group_norm batch_norm".split())
_NATIVE_NORMS = frozenset(
    "native_layer_norm native_group_norm native_batch_norm _fused_rms_norm "
    "_native_batch_norm_legit_functional _native_batch_norm_legit".split())
_STATISTIC_BYTES = 4


def is_view(call: OpCall) -> bool:
    """Whether the call returns views of its input and moves no data.

    Judged by the operator's schema; ``reshape`` counts as a view,
    ``contiguous`` as a copy, casts as what their dtypes say.
    """
    name = op_name(call.target)
    if name == "contiguous" or not call.inputs or not call.outputs:
        return False
    if name == "_unsafe_view":
        return True
    same_dtype = call.outputs[0].dtype == call.inputs[0].dtype
    returns = call.target._schema.returns
    aliases = any(r.alias_info is not None and not r.alias_info.is_write
                  for r in returns)
    return aliases and (same_dtype or name.startswith("view_as"))


def saved(call: OpCall) -> Saved:
    """What autograd keeps of `call`; nothing if no output needs a gradient.

    Unknown operators are taken to keep their differentiable inputs.
    """
    if not any(spec.requires_grad for spec in call.outputs) or is_view(call):
        return Saved()
    name = op_name(call.target)
    if name in _NOTHING:
        return Saved()
    if name in _OUTPUT:
        return Saved(outputs=(0, ))
    if name in _INPUT:
        return Saved(inputs=(0, ))
    if name in _BOTH:
        return Saved(inputs=(0, ), outputs=(0, ))
    if name in _INDEX:
        return Saved(inputs=_indices(call))
    if name == "gather":
        # The backward asks its input for the shape only, and keeps it.
        return Saved(inputs=(0, *_indices(call)))
    if name in _CHOSEN:
        return Saved(outputs=tuple(range(1, len(call.outputs))))
    return _saved_by_operands(call, name)


def _saved_by_operands(call: OpCall, name: str) -> Saved:
    if name == "mul":
        return Saved(inputs=_others(call, range(len(call.inputs))))
    if name == "div":
        return _saved_by_div(call)
    if name in _NORMS | _NATIVE_NORMS:
        return _saved_by_norm(call, name)
    if name == "dropout":
        return _saved_by_dropout(call)
    if name == "cross_entropy_loss":
        # log_softmax keeps its output, nll_loss the target and the total
        # weight.
        return Saved(inputs=_indices(call),
                     extra_bytes=call.inputs[0].size_bytes +
                     call.inputs[0].dtype.itemsize)
    if name == "scaled_dot_product_attention":
        rows = math.prod(call.outputs[0].shape[:-1])
        return Saved(inputs=tuple(range(len(call.inputs))),
                     outputs=(0, ),
                     extra_bytes=rows * _STATISTIC_BYTES)
    if name == "opaque":
        return Saved(inputs=tuple(range(len(call.inputs))))
    if name == "experts":
        return Saved(inputs=tuple(range(2, len(call.inputs))),
                     extra_bytes=expert_sizes(call).kept_bytes)
    product = contraction(call)
    if product is not None:
        return Saved(inputs=_others(call, product.operands))
    return Saved(inputs=_differentiable(call))


def _differentiable(call: OpCall) -> tuple[int, ...]:
    return tuple(i for i, s in enumerate(call.inputs) if s.requires_grad)


def _indices(call: OpCall) -> tuple[int, ...]:
    """Inputs that are no floating point numbers: indices and masks."""
    return tuple(i for i, s in enumerate(call.inputs)
                 if not s.dtype.is_floating_point)


def _others(call: OpCall, operands: Iterable[int]) -> tuple[int, ...]:
    """Of a product's operands, those that another's gradient needs."""
    operands = tuple(operands)
    needs = [i for i in operands if call.inputs[i].requires_grad]
    if len(operands) == 1:
        # One tensor times a number or itself.
        scalar = any(isinstance(a, (int, float)) for a in call.args)
        return () if scalar else operands
    return tuple(i for p, i in enumerate(operands)
                 if any(n != i or operands.count(i) > 1 for n in needs))


def _saved_by_div(call: OpCall) -> Saved:
    args = [a.index for a in call.args if isinstance(a, Arg)]
    if len(args) < 2:
        return Saved()
    numerator, divisor = args[:2]
    if call.inputs[divisor].requires_grad:
        return Saved(inputs=(numerator, divisor))
    return Saved(inputs=(divisor, ))


def _saved_by_norm(call: OpCall, name: str) -> Saved:
    scale = call.arg(1 if "batch_norm" in name else 2, "weight")
    bias = call.arg(3, "bias") if "layer_norm" in name else None
    inputs = (0, *(a.index for a in (scale, bias) if isinstance(a, Arg)))
    if name in _NATIVE_NORMS:
        count = 1 if name == "_fused_rms_norm" else 2
        outputs = range(1, min(1 + count, len(call.outputs)))
        return Saved(inputs=inputs, outputs=tuple(outputs))
    shape = call.inputs[0].shape
    if name == "batch_norm":
        statistics = 2 * shape[1]
    elif name == "group_norm":
        statistics = 2 * shape[0] * int(call.arg(1, "num_groups"))
    else:
        normalized = call.arg(1, "normalized_shape")
        rows = math.prod(shape[:len(shape) - len(normalized)])
        statistics = rows * (1 if name == "rms_norm" else 2)
    return Saved(inputs=inputs, extra_bytes=statistics * _STATISTIC_BYTES)


def _saved_by_dropout(call: OpCall) -> Saved:
    off = call.arg(1, "p") == 0 or not call.arg(2, "train", True)
    return Saved(extra_bytes=0 if off else call.outputs[0].numel)
