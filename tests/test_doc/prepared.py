"""Files that commands of pages take as there, made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch.distributed.checkpoint as dcp
import transformers
from tokenizers import Tokenizer, models

from scaletorch import models as our_models
from tests.tree import ROOT

__all__ = ["PREPARED"]


def text_files(folder: Path) -> None:
    """Two texts and a tokenizer."""
    (folder / "corpus").mkdir()
    (folder / "corpus/one.txt").write_text("one two three\n")
    (folder / "more.jsonl").write_text(json.dumps({"text": "two"}) + "\n")
    words = {"one": 0, "two": 1, "three": 2, "[UNK]": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.save(str(folder / "tokenizer.json"))


def config_and_weights(folder: Path) -> None:
    """A config, and a run's checkpoint of a small Llama."""
    shutil.copy(ROOT / "examples/configs/gpt_tiny.yaml",
                folder / "config.yaml")
    llama = our_models.build("llama3-8b",
                             width=64,
                             depth=2,
                             heads=4,
                             kv_heads=2,
                             hidden_width=128,
                             vocabulary_size=128)
    dcp.save(llama.state_dict(),
             checkpoint_id=folder / "runs/llama/step-00001000",
             no_dist=True)
    # What the first conversion writes is what the second reads.
    (folder / "Meta-Llama-3-8B").symlink_to("llama")


def measurements(folder: Path) -> None:
    """The rows that the presets are fitted on, where they are."""
    for name in ("collectives.yaml", "training_runs.yaml"):
        path = ROOT.parent / "shared/measurements" / name
        if path.is_file():
            shutil.copy(path, folder)


def hugging_face_model(folder: Path) -> None:
    """A tiny Llama that reads bytes."""
    config = transformers.LlamaConfig(vocab_size=257,
                                      hidden_size=64,
                                      intermediate_size=128,
                                      num_hidden_layers=2,
                                      num_attention_heads=4,
                                      num_key_value_heads=2)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "my-llama")


PREPARED: Mapping[str, Callable[[Path], None]] = {
    "doc/cost_model.md": measurements,
    "doc/data.md": text_files,
    "doc/training.md": config_and_weights,
    "examples/fine_tune.py": hugging_face_model,
}
"""By page, what makes them in a folder."""
