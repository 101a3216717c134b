"""Fine-tune a model of Hugging Face's, unchanged, over all ranks.

Give a folder that ``save_pretrained`` wrote, or a ``config.json`` alone for
random weights; left out, a tiny Llama is made up. The result is a folder that
``from_pretrained`` reads::

    torchrun --standalone --nproc-per-node 2 examples/fine_tune.py
    torchrun --standalone --nproc-per-node 8 examples/fine_tune.py \\
        --model my-llama --output my-llama-tuned --recipe fsdp

The text is CPython's own language reference, by bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import torch
import transformers
from torch.distributed.checkpoint.state_dict import (StateDictOptions,
                                                     get_model_state_dict)

import scaletorch
from scaletorch import data, dist
from scaletorch.trainer import parse_recipe


def single_device(path: str) -> transformers.PreTrainedModel:
    """The model as it would run on one device."""
    if not path:
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(vocab_size=257,
                                     hidden_size=64,
                                     intermediate_size=128,
                                     num_hidden_layers=2,
                                     num_attention_heads=4,
                                     num_key_value_heads=2))
    if Path(path, "model.safetensors.index.json").exists() or Path(
            path, "model.safetensors").exists():
        return transformers.AutoModelForCausalLM.from_pretrained(path)
    return transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(path))


def batches(folder: Path, steps: int, batch: int) -> data.Loader:
    """The text as sequences of tokens, which are its bytes."""
    (folder / "text.txt").write_text("\n".join(topics.values()),
                                     encoding="utf-8")
    return data.build({
        "kind": "text",
        "path": str(folder),
        "tokenizer": "bytes",
        "sequence_length": 64,
        "batch_size": batch,
        "names": {
            "tokens": "input_ids"
        }
    })


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="folder or config.json")
    parser.add_argument("--output", help="folder for the tuned model")
    parser.add_argument("--recipe", help="instead of the planner's choice")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    process = dist.init()
    torch.manual_seed(0)
    model = single_device(args.model)
    with tempfile.TemporaryDirectory() as folder:
        loader = batches(Path(folder), args.steps, args.batch)
    parallel = scaletorch.auto_parallelize(
        model,
        process.world_size,
        example_inputs=loader.example(),
        plan=parse_recipe(args.recipe) if args.recipe else None)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-3)
    for step, batch in zip(range(args.steps), loader):
        loss = parallel(**batch).loss
        loss.backward()
        scaletorch.clip_grad_norm_(parallel.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if process.is_main and step % 10 in (0, 9):
            print(f"step {step:4}  loss {loss.item():.4f}")
    if args.output:
        whole = get_model_state_dict(parallel,
                                     options=StateDictOptions(
                                         full_state_dict=True,
                                         cpu_offload=True))
        if process.is_main:
            model.save_pretrained(args.output, state_dict=whole)
            print(f"written to {args.output}")
    dist.shutdown()


if __name__ == "__main__":
    main()
