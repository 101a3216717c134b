"""What people found out reappears where models are planned on presets."""

from __future__ import annotations

import dataclasses
import unittest

import torch
import transformers as hf
from torch import nn

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster import ClusterSpec, axis_link, load_cluster
from planner.explain.load import loss_only
from planner.ir.layout import S
from planner.ir.program import Program, value_kind
from planner.joint.search import joint_candidates
from planner.planning import Planning
from planner.rules.registry import Option

_ATTENTION, _EXPERTS = "scaled_dot_product_attention", "scaletorch.experts"


def _program(kind: type[nn.Module], config: hf.PretrainedConfig, rows: int,
             positions: int) -> Program:
    with torch.device("meta"):
        model = loss_only(kind(config).to(torch.bfloat16).train())
        tokens = torch.zeros(rows, positions, dtype=torch.long)
    return capture(model, {
        "input_ids": tokens,
        "labels": tokens,
        "use_cache": False
    })


def _llama(rows: int, positions: int, **sizes: int) -> Program:
    config = hf.LlamaConfig(vocab_size=8000,
                            max_position_embeddings=positions,
                            **sizes)
    return _program(hf.LlamaForCausalLM, config, rows, positions)


def _two_nodes(slower: int) -> ClusterSpec:
    """Two nodes of two H100 each, their fabric slower than usual."""
    cluster = load_cluster("h100-sxm:2x2")
    node, fabric, *outer = cluster.tiers
    rate = fabric.link.bandwidth_bytes_per_s / slower
    link = dataclasses.replace(fabric.link, bandwidth_bytes_per_s=rate)
    return dataclasses.replace(cluster,
                               tiers=(node,
                                      dataclasses.replace(fabric,
                                                          link=link), *outer))


def _best(planning: Planning) -> Candidate:
    found = joint_candidates(planning, 4).candidates
    return min(filter(planning.fits, found), key=planning.rank)


def _options(planning: Planning, chosen: Candidate,
             target: str) -> dict[str, Option]:
    """How some call is divided over each axis."""
    classes = planning.facts.classes
    layout, label = next((chosen.layout.classes[name], label)
                         for name, cls in classes.items()
                         for label, call in cls.calls.items()
                         if target in str(call.node.target))
    return dict(zip(chosen.layout.mesh.names, layout.calls[label].options))


def _in_parts(planning: Planning, chosen: Candidate) -> set[str]:
    """Axes over which parameters are used in parts."""
    layout = chosen.layout
    return {
        axis
        for block, node, name in planning.program.uses()
        if value_kind(name) == "param" for axis, placement in zip(
            layout.mesh.names, layout.classes[block.block_class].hubs[
                node.meta["label"]]) if placement.is_shard
    }


def _tier(planning: Planning, chosen: Candidate, axis: str) -> str:
    mesh = chosen.mesh
    return axis_link(planning.cluster, mesh.sizes, mesh.index(axis)).tier


class TestContext(unittest.TestCase):

    def _splits_sequence(self, rows: int, positions: int) -> bool:
        """Whether attention has its queries in parts of the sequence."""
        program = _llama(rows,
                         positions,
                         hidden_size=512,
                         intermediate_size=1792,
                         num_hidden_layers=1,
                         num_attention_heads=2,
                         num_key_value_heads=2)
        planning = Planning(program, load_cluster("h100-sxm:1x4"))
        options = _options(planning, _best(planning), _ATTENTION)
        return any(o.inputs[0] == S(2) for o in options.values())

    def test_context_parallel_only_for_long_sequences(self) -> None:
        """As many tokens in a step, in shorter and longer sequences."""
        self.assertFalse(self._splits_sequence(32, 4096))
        self.assertTrue(self._splits_sequence(1, 32 * 4096))


class TestTensor(unittest.TestCase):

    def test_tensor_parallel_never_across_a_slow_link(self) -> None:
        """Too few sequences for data parallelism alone: stages go across
        nodes, and all that divides products stays inside of them."""
        program = _llama(2,
                         4096,
                         hidden_size=4096,
                         intermediate_size=14336,
                         num_hidden_layers=2,
                         num_attention_heads=32,
                         num_key_value_heads=32)
        for slower in (1, 8):
            planning = Planning(program, _two_nodes(slower))
            chosen = _best(planning)
            divided = _in_parts(planning, chosen)
            self.assertTrue(divided)
            self.assertEqual({_tier(planning, chosen, a)
                              for a in divided}, {"node"})


class TestExperts(unittest.TestCase):

    def test_experts_over_the_data_axis(self) -> None:
        """Tokens go to their experts over the axis that divides the batch;
        where the fabric is so slow that no axis across it is worth its
        while, experts are spread inside of a node, which shares tokens."""
        config = hf.MixtralConfig(hidden_size=2048,
                                  intermediate_size=7168,
                                  num_hidden_layers=1,
                                  num_attention_heads=16,
                                  num_key_value_heads=16,
                                  vocab_size=8000,
                                  num_local_experts=8)
        program = _program(hf.MixtralForCausalLM, config, 16, 2048)
        for slower, way, tiers in ((1, "expert_dispatch", {"node", "fabric"}),
                                   (8, "expert_owned", {"node"})):
            planning = Planning(program, _two_nodes(slower))
            chosen = _best(planning)
            spread = {
                axis: option
                for axis, option in _options(planning, chosen,
                                             _EXPERTS).items()
                if option.lowering is not None
            }
            self.assertTrue(spread)
            for axis, option in spread.items():
                self.assertEqual(option.lowering, way)
                self.assertEqual(option.inputs[0] == S(0), slower == 1)
                self.assertIn(_tier(planning, chosen, axis), tiers)


if __name__ == "__main__":
    unittest.main()
