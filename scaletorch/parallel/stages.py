"""Pipeline parallelism: every rank some of the layers.

Huang et al., "GPipe", 2019; Narayanan et al., "PipeDream" and "Megatron-LM",
2019 and 2021; Qi et al., "Zero Bubble Pipeline Parallelism", 2023.

**Sharded**: the layers, into stages. A batch goes through them in
micro-batches, so that all stages have something to do at once.

**Collectives**: none. A stage sends what its last layer gives to the next
one, and gets the gradient of that back. Inside a stage any other strategy
may run on other axes.

**Costs** ``2 A`` bytes for each boundary and step, little and between two
ranks only, and waiting: with ``p`` stages of equal time and ``m``
micro-batches a rank stands still for ``(p - 1) / (m + p - 1)`` of the step
under ``gpipe`` and ``1f1b``. ``v`` stages a rank (``interleaved1f1b``) make
it ``(p - 1) / (m v + p - 1)``; cutting the backward in two (``zbh1``,
``zbv``) fills most of the rest. Memory: a rank's own layers, and activations
of the micro-batches that are under way, at most ``p`` with ``1f1b``, all
with ``gpipe``. doc/schedules.md has the numbers of every schedule.

**Wins** on slow links, as between nodes, and where the batch is large enough
to be cut into many more micro-batches than there are stages.

Examples
--------
The second placement is over the micro-batches; the ``dp`` axis has one rank.

>>> from scaletorch.parallel import pipeline
>>> from scaletorch.parallel.example import Perceptron, Stack, inputs
>>> from scaletorch.parallel.picture import after
>>> print(after(Stack(Perceptron), inputs(),
...             pipeline(microbatches=2), {"pp": 2}, block="Perceptron"))
stage 0, on rank 0:
  p_model_layers_0_norm_weight rests as R R (1024,); microbatch: none forward,
      all_reduce backward
  p_model_layers_0_up_weight rests as R R (4096, 1024); microbatch: none
      forward, all_reduce backward
  p_model_layers_0_down_weight rests as R R (1024, 4096); microbatch: none
      forward, all_reduce backward
  embedding = placeholder : (1, 8192, 1024) float32, dp: S(0), microbatch: S(0)
  layer_norm = layer_norm(embedding, [1024], p_model_layers_0_norm_weight,
      None, 1e-05, False) : (1, 8192, 1024) float32, dp: S(0), microbatch: S(0)
  linear = linear(layer_norm, p_model_layers_0_up_weight) : (1, 8192, 4096)
      float32, dp: S(0), microbatch: S(0)
  relu = relu(linear) : (1, 8192, 4096) float32, dp: S(0), microbatch: S(0)
  linear_1 = linear(relu, p_model_layers_0_down_weight) : (1, 8192, 1024)
      float32, dp: S(0), microbatch: S(0)
  add = add.Tensor(embedding, linear_1) : (1, 8192, 1024) float32, dp: S(0),
      microbatch: S(0)
  return [add]
stage 1, on rank 1:
  p_model_layers_0_norm_weight rests as R R (1024,); microbatch: none forward,
      all_reduce backward
  p_model_layers_0_up_weight rests as R R (4096, 1024); microbatch: none
      forward, all_reduce backward
  p_model_layers_0_down_weight rests as R R (1024, 4096); microbatch: none
      forward, all_reduce backward
  embedding = placeholder : (1, 8192, 1024) float32, dp: S(0), microbatch: S(0)
  layer_norm = layer_norm(embedding, [1024], p_model_layers_0_norm_weight,
      None, 1e-05, False) : (1, 8192, 1024) float32, dp: S(0), microbatch: S(0)
  linear = linear(layer_norm, p_model_layers_0_up_weight) : (1, 8192, 4096)
      float32, dp: S(0), microbatch: S(0)
  relu = relu(linear) : (1, 8192, 4096) float32, dp: S(0), microbatch: S(0)
  linear_1 = linear(relu, p_model_layers_0_down_weight) : (1, 8192, 1024)
      float32, dp: S(0), microbatch: S(0)
  add = add.Tensor(embedding, linear_1) : (1, 8192, 1024) float32, dp: S(0),
      microbatch: S(0)
  return [add]
order of each rank's work:
0F0 0F1 0B0 0B1
1F0 1B0 1F1 1B1
"""

from planner.recipes import pipeline

__all__ = ["pipeline"]
