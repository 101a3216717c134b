"""Tensor parallelism: every rank a share of each product.

Shoeybi et al., "Megatron-LM", 2019.

**Sharded**: the weights of products and the optimizer's state for them. The
first product of a pair is divided by columns (output features), the second
by rows (input features), so that nothing has to be sent in between, also
not for the element-wise call or the attention heads there. Activations
between pairs, norms and the batch are whole on every rank.

**Collectives**: behind each pair an all-reduce of the layer's output in the
forward, and in the backward one of the gradient of the pair's input.

**Costs** ``4 (n - 1) / n * A`` bytes for each rank and pair, so twice that
for a transformer layer, and nothing can run beside it but parts of the very
same product. It grows with the batch and not with the model. Memory: ``1 /
n`` of the sharded weights; activations outside of the pairs are not divided.

**Wins** on the fastest links (the devices of a node) where layers are wide:
products shrink with ``n`` and what is sent does not. It is what fits one
sample of a large model into memory, and what makes a small batch faster.
``megatron(sequence_parallel=True)`` is told in
:mod:`scaletorch.parallel.sequence`.

Examples
--------
``R -> V`` before the pair is Megatron's *f*, ``P -> R`` behind it is *g*.

>>> from scaletorch.parallel import megatron
>>> from scaletorch.parallel.example import Perceptron, Stack, inputs
>>> from scaletorch.parallel.picture import after
>>> print(after(Stack(Perceptron, depth=8), inputs(), megatron(), {"tp": 4},
...             block="Perceptron"))
p_model_layers_0_norm_weight rests as R (1024,)
p_model_layers_0_up_weight rests as S(0) (1024, 1024)
p_model_layers_0_down_weight rests as S(1) (1024, 1024)
embedding = placeholder : (2, 8192, 1024) float32, tp: R
layer_norm = layer_norm(embedding, [1024], p_model_layers_0_norm_weight, None,
    1e-05, False) : (2, 8192, 1024) float32, tp: R
convert = convert[tp: R -> V](layer_norm) : (2, 8192, 1024) float32, tp: V  #
    none forward, all_reduce backward
linear = linear(convert, p_model_layers_0_up_weight) : (2, 8192, 1024) float32,
    tp: S(2)
relu = relu(linear) : (2, 8192, 1024) float32, tp: S(2)
linear_1 = linear(relu, p_model_layers_0_down_weight) : (2, 8192, 1024)
    float32, tp: P
convert_1 = convert[tp: P -> R](linear_1) : (2, 8192, 1024) float32, tp: R  #
    all_reduce forward, none backward
add = add.Tensor(embedding, convert_1) : (2, 8192, 1024) float32, tp: R
return [add]
"""

from planner.recipes import megatron

__all__ = ["megatron"]
