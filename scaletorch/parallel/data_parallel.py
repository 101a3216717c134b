"""Data parallelism: every rank a share of the batch, all of the model.

**Sharded**: the batch, and with it every activation. Parameters, gradients
and the optimizer's state are whole on each rank.

**Collectives**: none in the forward but for the scalar loss. In the backward
each rank's gradients are those of its own samples; an all-reduce adds them
up while the backward of earlier layers still runs.

**Costs** ``2 (n - 1) / n * P`` bytes for each rank and step, however large
the batch is. Memory: all of ``P``, its gradient and the optimizer's state;
activations of ``1 / n`` of the batch.

**Wins** where the model and its optimizer fit on one device and a rank's
samples take longer than the all-reduce. It is also the simplest: the only
thing that crosses the network is gradients.

Examples
--------
A parameter is used as ``V``: whole, but each rank has only a share of the
sum that is its gradient. That is the all-reduce, and it is all there is.

>>> from scaletorch.parallel import ddp
>>> from scaletorch.parallel.example import Perceptron, Stack, inputs
>>> from scaletorch.parallel.picture import after
>>> print(after(Stack(Perceptron), inputs(), ddp(), {"dp": 2},
...             block="Perceptron"))
p_model_layers_0_norm_weight rests as R (1024,); dp: none forward, all_reduce
    backward
p_model_layers_0_up_weight rests as R (4096, 1024); dp: none forward,
    all_reduce backward
p_model_layers_0_down_weight rests as R (1024, 4096); dp: none forward,
    all_reduce backward
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
"""

from planner.recipes import ddp

__all__ = ["ddp"]
