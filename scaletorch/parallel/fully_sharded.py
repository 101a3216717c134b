"""Fully sharded data parallelism: ZeRO, in two strengths.

Rajbhandari et al., "ZeRO", 2020; Zhao et al., "PyTorch FSDP", 2023.

**Sharded**: the batch, and at rest every parameter, its gradient and the
optimizer's state. A layer's parameters are whole only while it runs.

**Collectives**: before a layer's forward an all-gather of its parameters,
before its backward another one (``fsdp``; ``zero1`` keeps them in between),
and behind its backward a reduce-scatter of its gradients. All are moved
ahead of need, in buckets.

**Costs** ``3 (n - 1) / n * P`` bytes for each rank and step with ``fsdp``,
half as much again as data parallelism; ``2 (n - 1) / n * P`` with ``zero1``,
as much. Memory at rest: ``1 / n`` of everything. While it runs, ``fsdp`` has
one or two layers whole, and ``zero1`` all parameters.

**Wins** where data parallelism would, but for memory. ``zero1`` if parameters
fit and the optimizer's state does not: it has the traffic of ``ddp``. What
is gathered does not depend on the batch, so small batches a rank make it
slow; then tensor parallelism on the fast links takes a part.

Examples
--------
>>> from scaletorch.parallel import fsdp, zero1
>>> from scaletorch.parallel.example import Perceptron, Stack, inputs
>>> from scaletorch.parallel.picture import after
>>> print(after(Stack(Perceptron), inputs(), fsdp(), {"dp": 2},
...             block="Perceptron"))
p_model_layers_0_norm_weight rests as S(0) (512,); dp: all_gather forward,
    reduce_scatter backward, gathered twice
p_model_layers_0_up_weight rests as S(0) (2048, 1024); dp: all_gather forward,
    reduce_scatter backward, gathered twice
p_model_layers_0_down_weight rests as S(0) (512, 4096); dp: all_gather forward,
    reduce_scatter backward, gathered twice
embedding = placeholder : (1, 8192, 1024) float32, dp: S(0)
layer_norm = layer_norm(embedding, [1024], p_model_layers_0_norm_weight, None,
    1e-05, False) : (1, 8192, 1024) float32, dp: S(0)
linear = linear(layer_norm, p_model_layers_0_up_weight) : (1, 8192, 4096)
    float32, dp: S(0)
relu = relu(linear) : (1, 8192, 4096) float32, dp: S(0)
linear_1 = linear(relu, p_model_layers_0_down_weight) : (1, 8192, 1024)
    float32, dp: S(0)
add = add.Tensor(embedding, linear_1) : (1, 8192, 1024) float32, dp: S(0)
return [add]

With ``zero1`` the same but for the second gathering:

>>> text = after(Stack(Perceptron), inputs(), zero1(), {"dp": 2},
...              block="Perceptron")
>>> print(text.splitlines()[1])
p_model_layers_0_up_weight rests as S(0) (2048, 1024); dp: all_gather forward,
    reduce_scatter backward
"""

from planner.recipes import fsdp, zero1

__all__ = ["fsdp", "zero1"]
