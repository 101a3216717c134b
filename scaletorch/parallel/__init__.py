"""Recipes by hand: plan builders that combine with ``*``.

One file for each strategy says what is sharded, which collectives appear
where, what they cost and when the strategy wins, and draws it. The recipes
themselves are policies of the search (:mod:`planner.recipes`).

The lessons count, for an axis of ``n`` ranks, the bytes that each rank
sends in a step. ``P`` are the bytes of the parameters that are meant (and of
their gradients), ``A`` those of the activations between two layers, batch x
sequence x width x bytes of an element. On a ring an all-gather, a
reduce-scatter or an all-to-all of ``B`` bytes sends ``(n - 1) / n * B``, an
all-reduce twice that.

Examples
--------
>>> from scaletorch import parallel
>>> plan = parallel.fsdp() * parallel.megatron(sequence_parallel=True)
>>> plan.name
'fsdp * megatron-sp'

The layer that most lessons draw, on one device:

>>> from scaletorch.parallel.example import Perceptron, Stack, inputs
>>> from scaletorch.parallel.picture import before
>>> print(before(Stack(Perceptron), inputs(), block="Perceptron"))
embedding = placeholder : (2, 8192, 1024) float32
p_model_layers_0_norm_weight = placeholder : (1024,) float32
p_model_layers_0_up_weight = placeholder : (4096, 1024) float32
p_model_layers_0_down_weight = placeholder : (1024, 4096) float32
layer_norm = layer_norm(embedding, [1024], p_model_layers_0_norm_weight, None,
    1e-05, False) : (2, 8192, 1024) float32
linear = linear(layer_norm, p_model_layers_0_up_weight) : (2, 8192, 4096)
    float32
relu = relu(linear) : (2, 8192, 4096) float32
linear_1 = linear(relu, p_model_layers_0_down_weight) : (2, 8192, 1024) float32
add = add.Tensor(embedding, linear_1) : (2, 8192, 1024) float32
return [add]
"""

from planner.recipes import Recipe
from scaletorch.parallel.context import gather_kv, ring, ulysses
from scaletorch.parallel.data_parallel import ddp
from scaletorch.parallel.experts import expert
from scaletorch.parallel.fully_sharded import fsdp, zero1
from scaletorch.parallel.stages import pipeline
from scaletorch.parallel.tensor import megatron

__all__ = [
    "Recipe", "ddp", "expert", "fsdp", "gather_kv", "megatron", "pipeline",
    "ring", "ulysses", "zero1"
]
