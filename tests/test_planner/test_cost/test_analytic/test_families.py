"""The formulas against captured programs of experts and of encoders."""

from __future__ import annotations

import functools
import unittest
from typing import Any

import torch
from torch import nn

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.ends import head
from planner.cost.analytic.hardware import Hardware
from planner.cost.analytic.layers import dense_layer, expert_layer
from planner.cost.analytic.operators import Operator
from planner.cost.analytic.shares import stage_parameters
from planner.cost.analytic.step import step_time
from planner.cost.analytic.transformer import Transformer
from planner.cost.calls import KnownCall, known_calls
from planner.explain.load import loss_only
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.planning import Planning
from planner.recipes import RECIPES
from scaletorch.models.bert import Bert, BertConfig
from scaletorch.models.moe import Moe, MoeConfig
from scaletorch.models.moe_layers import RouterConfig
from tests.markers import nightly

_BATCH = 4
_MOE = Transformer(layers=2,
                   hidden=512,
                   heads=4,
                   kv_heads=4,
                   qk_dim=128,
                   v_dim=128,
                   qkv_parameters=3 * 512 * 512,
                   ffn=1024,
                   vocab=8000,
                   seq=256,
                   gated=True,
                   experts=8,
                   top_k=2,
                   expert_ffn=1024,
                   expert_layers=2)
_BERT = Transformer(layers=3,
                    hidden=1024,
                    heads=16,
                    kv_heads=16,
                    qk_dim=64,
                    v_dim=64,
                    qkv_parameters=3 * 1024 * 1024,
                    ffn=4096,
                    vocab=30522,
                    seq=512,
                    causal=False,
                    tied=True)


def _captured(model: nn.Module) -> Program:
    inputs = model.example_inputs(_BATCH)
    return capture(loss_only(model.to(torch.bfloat16).train()), inputs)


@functools.cache
def _moe() -> Program:
    """What `_MOE` is."""
    config = MoeConfig(vocabulary_size=8000,
                       width=512,
                       depth=2,
                       heads=4,
                       kv_heads=4,
                       head_dim=128,
                       hidden_width=1024,
                       context=256,
                       router=RouterConfig(experts=8, active=2))
    with torch.device("meta"):
        return _captured(Moe(config))


@functools.cache
def _bert() -> Program:
    """What `_BERT` is, save for biases, positions and the head's own layer."""
    with torch.device("meta"):
        return _captured(Bert(BertConfig(width=1024, depth=3, heads=16)))


def _candidate(program: Program, recipe: str, axis: str) -> Candidate:
    planning = Planning(program, load_cluster("h100-sxm:1x2"))
    return planning.from_recipe(RECIPES[recipe](), MeshSpec((axis, ), (2, )))


def _products(program: Program, name: str) -> list[KnownCall]:
    return [c for c in known_calls(program)[name] if c.work.kind != "memory"]


def _found_s(model: Transformer, **choices: Any) -> Any:
    """Parts of a step."""
    plan = Configurations(**choices)
    return step_time(model, plan,
                     Hardware.of(load_cluster("h100-sxm:1x2"), plan))


class _Agreement(unittest.TestCase):

    def same_flops(self, calls: list[KnownCall], ops: list[Operator], *,
                   within: float) -> None:
        """Flops of products, both ways."""
        forward = sum(float(o.flops) for o in ops)
        backward = sum(float(o.in_backward[0]) for o in ops)
        found = (sum(c.work.forward_flops for c in calls),
                 sum(c.work.backward_flops for c in calls))
        self.assertAlmostEqual(found[0] / forward, 1, delta=within)
        self.assertAlmostEqual(found[1] / backward, 1, delta=within)

    def same_parameters(self, candidate: Candidate, model: Transformer, *,
                        within: float, **choices: int) -> None:
        """Bytes of what one rank holds, in 16 bits."""
        held = 2 * float(stage_parameters(model, Configurations(**choices)))
        self.assertAlmostEqual(candidate.memory.parameters / held,
                               1,
                               delta=within)


class TestExperts(_Agreement):

    def test_flops(self) -> None:
        plan = Configurations(micro_batch=_BATCH)
        self.same_flops(_products(_moe(), "MoeLayer"),
                        expert_layer(_MOE, plan),
                        within=1e-3)
        self.same_flops(_products(_moe(), "Moe_2"),
                        head(_MOE, plan),
                        within=1e-3)

    def test_experts_that_are_spread(self) -> None:
        candidate = _candidate(_moe(), "expert", "ep")
        self.same_parameters(candidate, _MOE, within=2e-3, dp=2, ep=2)
        moves = [
            c for c in candidate.price.collectives if c.kind == "all_to_all"
        ]
        # Every rank's rows go to two experts and come back, both ways, once
        # with a weight for each; before it ranks say how many.
        rows = _BATCH * _MOE.seq * (_MOE.hidden + 0.5) * 2 * _MOE.top_k
        rows += 8 * _MOE.experts / 4
        self.assertAlmostEqual(sum(c.size_bytes * c.count
                                   for c in moves) / (4 * _MOE.layers * rows),
                               1,
                               delta=1e-3)
        found = _found_s(_MOE, dp=2, ep=2, micro_batch=_BATCH // 2)
        launches_s = len(moves) * _MOE.layers * load_cluster(
            "h100-sxm").device.launch_overhead_s
        self.assertAlmostEqual(
            (float(found.expert_s[0]) + launches_s) / sum(c.time_s
                                                          for c in moves),
            1,
            delta=0.01)


class TestEncoder(_Agreement):

    @nightly
    def test_flops(self) -> None:
        plan = Configurations(micro_batch=_BATCH)
        self.same_flops(_products(_bert(), "BertLayer"),
                        dense_layer(_BERT, plan),
                        within=1e-3)
        # The head has a layer of its own before the logits.
        self.same_flops(_products(_bert(), "Bert_2"),
                        head(_BERT, plan),
                        within=0.04)

    @nightly
    def test_replicas(self) -> None:
        candidate = _candidate(_bert(), "ddp", "dp")
        self.same_parameters(candidate, _BERT, within=0.03, dp=2)

    @nightly
    def test_tensor_parallelism(self) -> None:
        candidate = _candidate(_bert(), "megatron", "tp")
        self.same_parameters(candidate, _BERT, within=0.03, tp=2)
        layers = [
            c for c in candidate.price.collectives if c.where == "BertLayer"
        ]
        whole = _BATCH * _BERT.seq * _BERT.hidden * 2
        self.assertAlmostEqual(sum(c.size_bytes * c.count for c in layers) /
                               (4 * _BERT.layers * whole),
                               1,
                               delta=1e-3)
        # The embedding's sum and that before the head; those of the loss
        # are of one number a token.
        wide = [c for c in candidate.price.collectives if c.size_bytes > 1e6]
        found = _found_s(_BERT, tp=2, micro_batch=_BATCH)
        self.assertAlmostEqual(float(found.tensor_s[0]) / sum(c.time_s
                                                              for c in wide),
                               1,
                               delta=0.1)


class TestExpertsTogether(_Agreement):

    @nightly
    def test_replicas(self) -> None:
        candidate = _candidate(_moe(), "ddp", "dp")
        self.same_parameters(candidate, _MOE, within=2e-3, dp=2)

    @nightly
    def test_tensor_parallelism(self) -> None:
        candidate = _candidate(_moe(), "megatron", "tp")
        held = float(stage_parameters(_MOE, Configurations(tp=2, expert_tp=2)))
        self.assertAlmostEqual(candidate.memory.parameters / (2 * held),
                               1,
                               delta=2e-3)


if __name__ == "__main__":
    unittest.main()
