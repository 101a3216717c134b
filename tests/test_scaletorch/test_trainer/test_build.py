"""Models of runs: by name, by Hugging Face's config, with weights."""

from __future__ import annotations

import json
import tempfile
import unittest
from pathlib import Path
from typing import Any

from transformers import AutoConfig, LlamaForCausalLM

from scaletorch.trainer.build import build_model
from scaletorch.trainer.config import ModelConfig
from tests.test_scaletorch.test_trainer.runs import TINY, tiny, train_alone

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 16
}


class TestByName(unittest.TestCase):

    def test_nested_fields(self) -> None:
        model: Any = build_model(
            ModelConfig(name="qwen3-30b-a3b",
                        overrides={
                            "depth": 1,
                            "router": {
                                "experts": 4,
                                "active": 2
                            }
                        }))
        self.assertEqual(model.config.router.experts, 4)
        self.assertEqual(model.config.router.balance_weight, 0.001)
        self.assertTrue(next(model.parameters()).is_meta)

    def test_lists(self) -> None:
        model: Any = build_model(
            ModelConfig(name="resnet18", overrides={"depths": [1, 1]}))
        self.assertEqual(model.config.depths, (1, 1))

    def test_what_is_refused(self) -> None:
        wrong: dict[str, Any] = {"router": {"expert": 1}}
        for overrides, text in (
            (dict(dept=1), "has no field 'dept'"),
            (wrong, "model.overrides.router has no field 'expert': did you "
             "mean experts"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                build_model(
                    ModelConfig(name="qwen3-30b-a3b", overrides=overrides))
        with self.assertRaisesRegex(ValueError, "no file nowhere"):
            build_model(ModelConfig(hugging_face="nowhere"))


class TestHuggingFace(unittest.TestCase):

    def test_it_trains_and_gives_weights(self) -> None:
        # Imported before there are threads: its lazy modules need that.
        self.assertTrue(LlamaForCausalLM.config_class and AutoConfig)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(LLAMA))
            keys: dict[str, Any] = {
                "model": {
                    "name": None,
                    "overrides": {},
                    "hugging_face": folder
                },
                "data": {
                    "names": {
                        "tokens": "input_ids"
                    }
                }
            }
            run = str(Path(folder) / "run")
            checkpoint = TINY["checkpoint"] | {"folder": run}
            with self.assertRaisesRegex(
                    RuntimeError, "data: a batch has 'tokens', but "
                    "LlamaForCausalLM takes input_ids, .*; give data.names, "
                    "such as {tokens: input_ids}"):
                train_alone(tiny(model=keys["model"]))
            _, first = train_alone(
                tiny(plan="fsdp", checkpoint=checkpoint, **keys), 2)
            self.assertEqual(first[-1]["step"], 6)
            self.assertLess(first[-1]["loss"], first[0]["loss"])
            keys["model"]["weights"] = f"{run}/step-00000006"
            _, second = train_alone(tiny(train={"steps": 1}, **keys))
            self.assertLess(second[0]["loss"], first[0]["loss"] - 0.1)


if __name__ == "__main__":
    unittest.main()
