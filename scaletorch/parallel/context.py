"""Context parallelism: every rank a share of each sequence.

**Sharded**: the sequence, in every activation. Norms, products and losses
look at one token at a time and do not notice. Attention does, and there are
three ways through it:

- ``ulysses`` (Jacobs et al., 2023): an all-to-all turns shards of the
  sequence into shards of the heads before attention, and back behind it.
- ``gather_kv``: each rank gathers all keys and values, and attends with its
  own queries.
- ``ring`` (Liu et al., 2023): keys and values go around the axis, a shard a
  step; each is sent while the one before is attended to, and the parts are
  merged by their logsumexp. Causal attention takes the sequence in zig-zag
  order, so that all ranks have as much to do.

**Collectives** beside that: parameters are whole, so their gradients are
added up by an all-reduce, as under data parallelism.

**Costs** for each rank and attention layer, with ``K`` the bytes of all keys
and values, ``2 A`` or less with shared key heads:

| way | bytes sent, forward and backward | at a time in memory |
| --- | --- | --- |
| ``ulysses`` | ``2 (n - 1) / n * (2 A + K) / n`` | ``1 / n`` of everything |
| ``gather_kv`` | ``2 (n - 1) / n * K`` | all keys and values |
| ``ring`` | ``(3 n - 2) / n * K`` | ``2 / n`` of keys and values |

and ``2 (n - 1) / n * P`` for the gradients of all parameters. Zig-zag order
costs ``ring`` what ``ulysses`` sends.

**Wins** where one sequence is too long for a device. ``ulysses`` sends least,
but ``n`` has to divide the heads; ``ring`` can hide what it sends behind
attention, which grows with the square of the sequence; ``gather_kv`` is best
where keys and values are few. ``ulysses() * ring()`` takes two axes.

Examples
--------
Outside of attention nothing is sent but gradients:

>>> from scaletorch.parallel import gather_kv, ring, ulysses
>>> from scaletorch.parallel.example import (Attention, Perceptron, Stack,
...                                          inputs)
>>> from scaletorch.parallel.picture import after
>>> print(after(Stack(Perceptron), inputs(), ulysses(), {"cp": 4},
...             block="Perceptron"))
p_model_layers_0_norm_weight rests as R (1024,); cp: none forward, all_reduce
    backward
p_model_layers_0_up_weight rests as R (4096, 1024); cp: none forward,
    all_reduce backward
p_model_layers_0_down_weight rests as R (1024, 4096); cp: none forward,
    all_reduce backward
embedding = placeholder : (2, 2048, 1024) float32, cp: S(1)
layer_norm = layer_norm(embedding, [1024], p_model_layers_0_norm_weight, None,
    1e-05, False) : (2, 2048, 1024) float32, cp: S(1)
linear = linear(layer_norm, p_model_layers_0_up_weight) : (2, 2048, 4096)
    float32, cp: S(1)
relu = relu(linear) : (2, 2048, 4096) float32, cp: S(1)
linear_1 = linear(relu, p_model_layers_0_down_weight) : (2, 2048, 1024)
    float32, cp: S(1)
add = add.Tensor(embedding, linear_1) : (2, 2048, 1024) float32, cp: S(1)
return [add]

Of attention only the lines around it:

>>> def around(recipe):
...     text = after(Stack(Attention), inputs(), recipe, {"cp": 4},
...                  block="Attention")
...     print(*(line for line in text.splitlines()
...             if "convert" in line or "attention" in line), sep="\\n")
>>> around(ulysses())
convert = convert[cp: S(1) -> S(2)](view) : (2, 8192, 4, 64) float32, cp: S(2)
    # all_to_all forward, all_to_all backward
transpose = transpose.int(convert, 1, 2) : (2, 4, 8192, 64) float32, cp: S(1)
convert_1 = convert[cp: S(1) -> S(2)](view_1) : (2, 8192, 4, 64) float32, cp:
    S(2)  # all_to_all forward, all_to_all backward
transpose_1 = transpose.int(convert_1, 1, 2) : (2, 4, 8192, 64) float32, cp:
    S(1)
convert_2 = convert[cp: S(1) -> S(2)](view_2) : (2, 8192, 4, 64) float32, cp:
    S(2)  # all_to_all forward, all_to_all backward
transpose_2 = transpose.int(convert_2, 1, 2) : (2, 4, 8192, 64) float32, cp:
    S(1)
scaled_dot_product_attention = scaled_dot_product_attention(transpose,
    transpose_1, transpose_2, None, 0.0, True) : (2, 4, 8192, 64) float32, cp:
    S(1)
convert_3 = convert[cp: S(1) -> S(2)](scaled_dot_product_attention) : (2, 16,
    2048, 64) float32, cp: S(2)  # all_to_all forward, all_to_all backward
transpose_3 = transpose.int(convert_3, 1, 2) : (2, 2048, 16, 64) float32, cp:
    S(1)
>>> around(gather_kv())
convert = convert[cp: S(1) -> V](linear_1) : (2, 8192, 1024) float32, cp: V  #
    all_gather forward, reduce_scatter backward
view_1 = reshape(convert, [2, 8192, 16, 64]) : (2, 8192, 16, 64) float32, cp: V
convert_1 = convert[cp: S(1) -> V](linear_2) : (2, 8192, 1024) float32, cp: V
    # all_gather forward, reduce_scatter backward
view_2 = reshape(convert_1, [2, 8192, 16, 64]) : (2, 8192, 16, 64) float32, cp:
    V
scaled_dot_product_attention = scaled_dot_product_attention(transpose,
    transpose_1, transpose_2, None, 0.0, True) : (2, 16, 2048, 64) float32, cp:
    S(2) by sdpa_query_shard
transpose_3 = transpose.int(scaled_dot_product_attention, 1, 2) : (2, 2048, 16,
    64) float32, cp: S(1)
>>> around(ring())
scaled_dot_product_attention = scaled_dot_product_attention(transpose,
    transpose_1, transpose_2, None, 0.0, True) : (2, 16, 2048, 64) float32, cp:
    S(2) by ring_attention
transpose_3 = transpose.int(scaled_dot_product_attention, 1, 2) : (2, 2048, 16,
    64) float32, cp: S(1)
"""

from planner.recipes import gather_kv, ring, ulysses

__all__ = ["gather_kv", "ring", "ulysses"]
