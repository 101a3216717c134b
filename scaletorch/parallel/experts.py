"""Expert parallelism: every rank a share of the experts.

Lepikhin et al., "GShard", 2020; Fedus et al., "Switch Transformers", 2021.

**Sharded**: the batch, and the experts of mixtures. Everything else is as
under data parallelism.

**Collectives**: in a mixture each token goes to the ranks of the experts
that its router names, and what they make of it comes back: two all-to-alls
in the forward and two in the backward, inside of the lowering ``experts``.
How many rows go where is known only then, so that counts are exchanged
first. No token is dropped. Other parameters' gradients are added up by an
all-reduce.

**Costs** ``4 (n - 1) / n * k A / n`` bytes for each rank and mixture with
``k`` experts a token, and ``2 (n - 1) / n * P`` for the gradients of all
parameters but the experts'. Memory: ``1 / n`` of the experts. The rank whose
experts get most tokens is waited for; ``scaletorch.expert_load`` tells.

**Wins** where experts are most of the parameters, as they usually are: their
gradients are not sent at all, and tokens are fewer bytes than weights.

Examples
--------
>>> from scaletorch.parallel import expert
>>> from scaletorch.parallel.example import Mixture, Stack, inputs
>>> from scaletorch.parallel.picture import after, before
>>> print(before(Stack(Mixture), inputs(), block="Mixture"))
embedding = placeholder : (2, 8192, 1024) float32
p_model_layers_0_router_weight = placeholder : (8, 1024) float32
p_model_layers_0_gate_up = placeholder : (8, 4096, 1024) float32
p_model_layers_0_down = placeholder : (8, 1024, 2048) float32
view = view(embedding, [16384, 1024]) : (16384, 1024) float32
linear = linear(view, p_model_layers_0_router_weight) : (16384, 8) float32
softmax = softmax.int(linear, -1) : (16384, 8) float32
topk = topk(softmax, 2) : (16384, 2) float32, (16384, 2) int64
getitem = topk[0] : (16384, 2) float32
getitem_1 = topk[1] : (16384, 2) int64
experts = scaletorch.experts(view, getitem_1, getitem,
    p_model_layers_0_gate_up, p_model_layers_0_down) : (16384, 1024) float32
view_1 = view(experts, [2, 8192, 1024]) : (2, 8192, 1024) float32
add = add.Tensor(embedding, view_1) : (2, 8192, 1024) float32
return [add]
>>> print(after(Stack(Mixture), inputs(), expert(), {"ep": 2},
...             block="Mixture"))
p_model_layers_0_router_weight rests as R (8, 1024); ep: none forward,
    all_reduce backward
p_model_layers_0_gate_up rests as S(0) (4, 4096, 1024)
p_model_layers_0_down rests as S(0) (4, 1024, 2048)
embedding = placeholder : (1, 8192, 1024) float32, ep: S(0)
view = reshape(embedding, [8192, 1024]) : (8192, 1024) float32, ep: S(0)
linear = linear(view, p_model_layers_0_router_weight) : (8192, 8) float32, ep:
    S(0)
softmax = softmax.int(linear, -1) : (8192, 8) float32, ep: S(0)
topk = topk(softmax, 2)
getitem = topk[0] : (8192, 2) float32, ep: S(0)
getitem_1 = topk[1] : (8192, 2) int64, ep: S(0)
experts = scaletorch.experts(view, getitem_1, getitem,
    p_model_layers_0_gate_up, p_model_layers_0_down) : (8192, 1024) float32,
    ep: S(0) by experts
view_1 = reshape(experts, [1, 8192, 1024]) : (1, 8192, 1024) float32, ep: S(0)
add = add.Tensor(embedding, view_1) : (1, 8192, 1024) float32, ep: S(0)
return [add]

Of a perceptron without experts it makes data parallelism:

>>> from scaletorch.parallel import ddp
>>> from scaletorch.parallel.example import Perceptron
>>> model = Stack(Perceptron)
>>> dense = after(model, inputs(), expert(), {"ep": 2}, block="Perceptron")
>>> dense.replace("ep:", "dp:") == after(model, inputs(), ddp(), {"dp": 2},
...                                      block="Perceptron")
True
"""

from planner.recipes import expert

__all__ = ["expert"]
