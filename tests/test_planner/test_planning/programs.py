"""Programs and clusters that the planning tests share, captured once."""

from __future__ import annotations

import functools

import torch
import transformers as hf
from torch import nn

from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.cluster.spec import ClusterSpec, DeviceKind, Link, Tier
from planner.explain.load import loss_only
from planner.ir.program import Program
from planner.planning import Planning
from tests.model_zoo import MODELS

__all__ = [
    "large_gpt2", "large_llama", "mlp", "planning_on", "rows_of_mlp",
    "slow_cluster", "zoo"
]


@functools.cache
def zoo(name: str) -> Program:
    """A model of the zoo."""
    model, inputs, loss_fn = MODELS[name]()
    return capture(model, inputs, loss_fn=loss_fn)


def slow_cluster(size: int, bandwidth_bytes_per_s: float) -> ClusterSpec:
    """Devices so slow that small models gain by being divided."""
    link = Link(latency_s=1e-7,
                bandwidth_bytes_per_s=bandwidth_bytes_per_s,
                overhead_s=1e-7)
    device = DeviceKind(name="slow",
                        memory_bytes=10**9,
                        memory_bandwidth_bytes_per_s=1e10,
                        peak_flops_per_s=(("float32", 1e9), ),
                        launch_overhead_s=1e-8)
    return ClusterSpec(name="slow",
                       device=device,
                       tiers=(Tier(name="node", size=size, link=link), ))


def planning_on(program: Program, devices: int) -> Planning:
    """On nodes of 8 H100."""
    return Planning(program, load_cluster("h100-sxm").resized(devices))


@functools.cache
def large_llama(batch: int = 16) -> Program:
    """Three real layers of Llama 8B, on the meta device."""
    config = hf.LlamaConfig(hidden_size=4096,
                            intermediate_size=14336,
                            num_hidden_layers=3,
                            num_attention_heads=32,
                            num_key_value_heads=8,
                            vocab_size=32000)
    return _language_model(hf.LlamaForCausalLM, config, batch)


@functools.cache
def large_gpt2() -> Program:
    """Three layers of a GPT-2 of width 2048, on the meta device."""
    config = hf.GPT2Config(n_embd=2048,
                           n_layer=3,
                           n_head=16,
                           vocab_size=32000,
                           n_positions=2048,
                           bos_token_id=1,
                           eos_token_id=2,
                           resid_pdrop=0.0,
                           embd_pdrop=0.0,
                           attn_pdrop=0.0)
    return _language_model(hf.GPT2LMHeadModel, config, 16)


def _language_model(cls: type[nn.Module], config: hf.PretrainedConfig,
                    batch: int) -> Program:
    with torch.device("meta"):
        model = loss_only(cls(config).to(torch.bfloat16).train())
        ids = torch.zeros(batch, 2048, dtype=torch.int64)
    return capture(model, {
        "input_ids": ids,
        "labels": ids,
        "use_cache": False
    })


@functools.cache
def mlp(rows: int = 4) -> Program:
    """Two products and a sum, small enough to try all layouts."""
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(),
                          nn.Linear(8, 4, bias=False))
    return capture(model, (torch.zeros(rows, 4), torch.zeros(rows, 4)),
                   loss_fn=nn.functional.mse_loss)


def rows_of_mlp(rows: int) -> Planning:
    """That on a batch of any size, on four slow devices."""
    return Planning(mlp(rows), slow_cluster(4, 1e8))
