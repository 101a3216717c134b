"""Sequence parallelism: tensor parallelism, with the rest divided too.

Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
Models", 2022.

**Sharded**: what tensor parallelism shards, and between the pairs of
products also the activations, along the sequence (or the batch: the search
takes the first that divides). Norms, residuals and dropout are divided.

**Collectives**: each all-reduce of tensor parallelism is cut in two: a
reduce-scatter behind the pair, and an all-gather before the next one.
Backwards they change places.

**Costs** the same ``4 (n - 1) / n * A`` bytes for each rank and pair, since
an all-reduce is a reduce-scatter and an all-gather. It saves memory, not
traffic: activations outside of the pairs are ``1 / n``. In exchange the
gradients of the norms' parameters are added up, which are small.

**Wins** over plain tensor parallelism nearly always where the sequence (or
batch) divides; with very few layers the gathers at both ends may cost more
than the norms that they divide.

Examples
--------
>>> from scaletorch.parallel import megatron
>>> from scaletorch.parallel.example import Perceptron, Stack, inputs
>>> from scaletorch.parallel.picture import after
>>> print(after(Stack(Perceptron, depth=8), inputs(),
...             megatron(sequence_parallel=True), {"tp": 4},
...             block="Perceptron"))
p_model_layers_0_norm_weight rests as R (1024,); tp: none forward, all_reduce
    backward
p_model_layers_0_up_weight rests as S(0) (1024, 1024)
p_model_layers_0_down_weight rests as S(1) (1024, 1024)
embedding = placeholder : (2, 2048, 1024) float32, tp: S(1)
layer_norm = layer_norm(embedding, [1024], p_model_layers_0_norm_weight, None,
    1e-05, False) : (2, 2048, 1024) float32, tp: S(1)
convert = convert[tp: S(1) -> V](layer_norm) : (2, 8192, 1024) float32, tp: V
    # all_gather forward, reduce_scatter backward
linear = linear(convert, p_model_layers_0_up_weight) : (2, 8192, 1024) float32,
    tp: S(2)
relu = relu(linear) : (2, 8192, 1024) float32, tp: S(2)
linear_1 = linear(relu, p_model_layers_0_down_weight) : (2, 8192, 1024)
    float32, tp: P
convert_1 = convert[tp: P -> S(1)](linear_1) : (2, 2048, 1024) float32, tp:
    S(1)  # reduce_scatter forward, all_gather backward
add = add.Tensor(embedding, convert_1) : (2, 2048, 1024) float32, tp: S(1)
return [add]
"""

from planner.recipes import megatron

__all__ = ["megatron"]
