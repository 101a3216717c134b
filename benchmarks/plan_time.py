"""CPU time of planning by phase, for models of Hugging Face on meta.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.plan_time`` from the root.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.explain.arguments import parse_mesh
from planner.explain.load import load_model
from planner.planning import Planning

__all__ = ["main"]

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
_GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_positions": 4096,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "dtype": "bfloat16"
}
CASES: dict[str, tuple[dict[str, Any], str, int]] = {
    "GPT-2 on 8": (_GPT2, "dp=8", 32),
    "Llama 8B on 8": (_LLAMA_8B, "dp=8", 8),
    "Llama 8B on 32x8": (_LLAMA_8B, "32x8", 256),
    "Llama 8B on 16x2x8": (_LLAMA_8B, "16x2x8", 256),
    "Llama 8B on 256": (_LLAMA_8B, "256", 256),
    "Llama 70B on 32x8": (_LLAMA_70B, "32x8", 64),
}
"""Name to config, mesh and global batch of sequences of 4096 tokens."""


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def _row(name: str) -> str:
    config, mesh, batch = CASES[name]
    meshes = parse_mesh(mesh)
    cluster = load_cluster("h100-sxm").resized(meshes[0].world_size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        loaded = load_model(path, batch=batch, sequence=4096)
    program, capture_s = _timed(lambda: capture(loaded.model, loaded.inputs))
    planning, facts_s = _timed(lambda: Planning(program, cluster))
    _, bound_s = _timed(lambda: [planning.bound_s(m) for m in meshes])
    found, search_s = _timed(lambda: planning.candidates(meshes))
    _, plan_s = _timed(lambda: planning.plan_of(found[0]).to_yaml())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (f"{name:20} {capture_s:9.2f} {facts_s:8.2f} {bound_s:8.2f} "
            f"{search_s:9.2f} {plan_s:7.2f} {len(found):6} "
            f"{found[0].time_s:8.3f} {found[0].gap:6.1%} {peak:8.2f}")


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per case: CPU seconds by phase, and the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=sorted(CASES), action="append")
    chosen = parser.parse_args(argv).case or list(CASES)
    print(f"{'case':20} capture_s  facts_s  bound_s  search_s  plan_s  plans "
          "  step_s    gap peak_gib")
    for name in chosen:
        print(_row(name), flush=True)


if __name__ == "__main__":
    main()
