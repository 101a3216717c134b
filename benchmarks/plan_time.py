"""CPU time of planning by phase, for models of Hugging Face on meta.

Run ``OMP_NUM_THREADS=1 python benchmarks/plan_time.py`` from the root. Every
case has a process of its own, so that its peak memory is its own, too. Times
are processor seconds: building the model on meta, capturing it, what is
prepared for any mesh, the search over all meshes, and writing the plan. Since
processors are not always as quick, ``loops`` says in how many runs of a fixed
loop of Python's all but the import is done, timed before and after the search.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planner.capture.capture import capture  # noqa: E402
from planner.cluster import load_cluster  # noqa: E402
from planner.explain.arguments import parse_mesh  # noqa: E402
from planner.explain.load import Loaded, load_model  # noqa: E402
from planner.planning import Planning  # noqa: E402

__all__ = ["CASES", "Case", "built", "main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is planned.

    Parameters
    ----------
    config : dict
        Of a model of Hugging Face.
    mesh : str
        Of H100s, as ``--mesh`` of ``planner.explain`` has it: of a number
        alone the division is searched.
    batch, sequence : int
        Global batch, in sequences or images, and tokens of each.
    """

    config: dict[str, Any]
    mesh: str
    batch: int
    sequence: int = 4096


_GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
_LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16"
}
_LLAMA_70B = {
    **_LLAMA_8B, "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64
}
_LLAMA_405B = {
    **_LLAMA_8B, "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_hidden_layers": 126,
    "num_attention_heads": 128
}
_MIXTRAL_8X7B = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "dtype": "bfloat16"
}
_DEEPSEEK_671B = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "vocab_size": 129280,
    "dtype": "bfloat16"
}
_VIT_22B = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 48,
    "num_attention_heads": 48,
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
    "num_labels": 1000,
    "dtype": "bfloat16"
}
_T5_11B = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "d_model": 1024,
    "d_kv": 128,
    "d_ff": 65536,
    "num_layers": 24,
    "num_heads": 128,
    "vocab_size": 32128,
    "decoder_start_token_id": 0,
    "dtype": "bfloat16"
}
CASES = {
    "GPT-2 on 8":
    Case(config=_GPT2, mesh="8", batch=64, sequence=1024),
    "Llama 8B on 8":
    Case(config=_LLAMA_8B, mesh="8", batch=8),
    "Llama 8B on 32x8":
    Case(config=_LLAMA_8B, mesh="32x8", batch=256),
    "Llama 8B on 16x2x8":
    Case(config=_LLAMA_8B, mesh="16x2x8", batch=256),
    "Llama 8B on 256":
    Case(config=_LLAMA_8B, mesh="256", batch=256),
    "Llama 70B on 32x8":
    Case(config=_LLAMA_70B, mesh="32x8", batch=256),
    "Llama 70B on 1024":
    Case(config=_LLAMA_70B, mesh="1024", batch=1024),
    "Llama 405B on 16384":
    Case(config=_LLAMA_405B, mesh="16384", batch=2048, sequence=8192),
    "Mixtral 8x7B on 256":
    Case(config=_MIXTRAL_8X7B, mesh="256", batch=256),
    "DeepSeek 671B on 2048":
    Case(config=_DEEPSEEK_671B, mesh="2048", batch=4096),
    "ViT 22B on 1024":
    Case(config=_VIT_22B, mesh="1024", batch=65536),
    "T5 11B on 256":
    Case(config=_T5_11B, mesh="256", batch=2048, sequence=512),
}

_PHASES = ("import", "build", "capture", "facts", "search", "plan")
_ROUNDS = 1_000_000  # of the fixed loop


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def _loop() -> int:
    """What takes the same work each time."""
    total = 0
    for i in range(_ROUNDS):
        total += i * i
    return total


def _loop_s() -> float:
    return min(_timed(_loop)[1] for _ in range(5))


def _imported(case: Case) -> None:
    """The library, and the module that the model is in."""
    getattr(importlib.import_module("transformers"),
            case.config["architectures"][0])


def built(case: Case) -> Loaded:
    """The model on meta, with its inputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(case.config), encoding="utf-8")
        return load_model(path, batch=case.batch, sequence=case.sequence)


def _row(name: str) -> str:
    case = CASES[name]
    meshes = parse_mesh(case.mesh)
    cluster = load_cluster("h100-sxm").resized(meshes[0].world_size)
    _, import_s = _timed(lambda: _imported(case))
    loaded, build_s = _timed(lambda: built(case))
    program, capture_s = _timed(lambda: capture(loaded.model, loaded.inputs))
    planning, facts_s = _timed(lambda: Planning(program, cluster))
    before_s = _loop_s()
    found, search_s = _timed(lambda: planning.candidates(meshes))
    loop_s = (before_s + _loop_s()) / 2
    plan, plan_s = _timed(lambda: planning.plan_of(found[0]))
    work_s = (build_s, capture_s, facts_s, search_s, plan_s)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shown = "".join(f"{t:10.2f}" for t in (import_s, *work_s, sum(work_s)))
    return (
        f"{name:22}{shown}{sum(work_s) / loop_s:8.0f}{peak:10.2f}{found[0].gap:7.1%}"
        f"{found[0].time_s:9.3f}  {_choice(plan)}")


def _choice(plan: Any) -> str:
    """The mesh, and the pipeline where there is one."""
    axes = zip(plan.mesh.names, plan.mesh.sizes, strict=True)
    shown = " x ".join(f"{n}={s}" for n, s in axes)
    if plan.pipeline is None:
        return shown
    spec = plan.pipeline
    return (f"{shown}, {spec.microbatches} x {spec.schedule}"
            f", {spec.chunks} chunks")


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per case: processor seconds by phase, and the result.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=sorted(CASES), action="append")
    chosen = parser.parse_args(argv).case or list(CASES)
    times = "".join(f"{p + '_s':>10}" for p in (*_PHASES, "all"))
    print(f"{'case':22}{times}   loops  peak_gib    gap   step_s  plan",
          flush=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        for line in pool.imap(_row, chosen):
            print(line, flush=True)


if __name__ == "__main__":
    main()
