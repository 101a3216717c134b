"""Models of configs, and what they are called with."""

from __future__ import annotations

import json
import tempfile
import unittest
import warnings
from pathlib import Path
from typing import Any

import torch

from planner.capture.capture import capture
from planner.explain.load import Loaded, load_model

_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64
}
_IMAGES = {**_TINY, "image_size": 32, "patch_size": 8}
_PAIRS = {
    "text_config": {
        **_TINY, "vocab_size": 99
    },
    "vision_config": _IMAGES,
    "projection_dim": 32
}
_TWO_STACKS = {
    "d_model": 32,
    **{
        f"{stack}_{name}": size
        for stack in ("encoder", "decoder")
        for name, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
    }
}


def _load(architecture: str,
          kind: str,
          sequence: int | None = None,
          **fields: Any) -> Loaded:
    config = {"architectures": [architecture], "model_type": kind, **fields}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return load_model(path, batch=4, sequence=sequence)


def _shapes(*case: Any, **fields: Any) -> dict[str, Any]:
    inputs = _load(*case, **fields).inputs
    return {
        n: tuple(x.shape) if isinstance(x, torch.Tensor) else x
        for n, x in inputs.items()
    }


class TestInputs(unittest.TestCase):

    def test_tokens_as_many_as_there_are_positions(self) -> None:
        row = (4, 512)
        for kind, labels in (("ForMaskedLM", {
                "labels": row
        }), ("ForSequenceClassification", {
                "labels": (4, )
        }), ("ForQuestionAnswering", {
                "start_positions": (4, ),
                "end_positions": (4, )
        })):
            with self.subTest(kind):
                self.assertEqual(_shapes(f"Bert{kind}", "bert", **_TINY),
                                 {"input_ids": row} | labels)
        with self.assertRaisesRegex(ValueError, "--seq 600 .* 512 positions"):
            _load("BertForMaskedLM", "bert", 600, **_TINY)
        # Those that are computed do not end.
        self.assertEqual(
            _shapes("LlamaForCausalLM",
                    "llama",
                    **_TINY,
                    max_position_embeddings=64)["input_ids"], (4, 4096))

    def test_images_and_videos(self) -> None:
        image = (4, 3, 32, 32)
        self.assertEqual(
            _shapes("ViTForImageClassification", "vit", **_IMAGES), {
                "pixel_values": image,
                "labels": (4, )
            })
        self.assertEqual(
            _shapes("SegformerForSemanticSegmentation",
                    "segformer",
                    image_size=32), {
                        "pixel_values": image,
                        "labels": (4, 32, 32)
                    })
        self.assertEqual(
            _shapes("VideoMAEForVideoClassification", "videomae", **_IMAGES), {
                "pixel_values": (4, 16, 3, 32, 32),
                "labels": (4, )
            })

    def test_images_of_any_size(self) -> None:
        with self.assertWarnsRegex(UserWarning, "224 x 224 is taken"):
            shapes = _shapes("ResNetForImageClassification",
                             "resnet",
                             depths=[1, 1, 1, 1])
        self.assertEqual(shapes["pixel_values"], (4, 3, 224, 224))

    def test_sounds(self) -> None:
        self.assertEqual(
            _shapes("WhisperForConditionalGeneration", "whisper",
                    **_TWO_STACKS), {
                        "input_features": (4, 80, 3000),
                        "labels": (4, 448)
                    })
        # One frame for 320 samples.
        self.assertEqual(_shapes("Wav2Vec2ForCTC", "wav2vec2", 10, **_TINY), {
            "input_values": (4, 3200),
            "labels": (4, 10)
        })

    def test_a_pair(self) -> None:
        loaded = _load("CLIPModel", "clip", **_PAIRS)
        self.assertEqual(set(loaded.inputs),
                         {"input_ids", "pixel_values", "return_loss"})
        program = capture(loaded.model, loaded.inputs)
        self.assertEqual(program.loss, 0)

    def test_images_beside_a_text(self) -> None:
        with self.assertWarnsRegex(UserWarning, "without pixel_values: what"):
            shapes = _shapes("LlavaForConditionalGeneration",
                             "llava",
                             text_config={
                                 "model_type": "llama",
                                 **_TINY
                             },
                             vision_config={
                                 "model_type": "clip_vision_model",
                                 **_IMAGES
                             })
        self.assertEqual(set(shapes), {"input_ids", "labels"})

    def test_what_has_no_loss(self) -> None:
        with self.assertWarnsRegex(UserWarning, "BertModel is called without"):
            loaded = _load("BertModel", "bert", 8, **_TINY)
        self.assertEqual(capture(loaded.model, loaded.inputs).loss, 0)

    def test_what_no_config_says(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with self.assertRaisesRegex(ValueError, "pixel_values.*get_model"):
                _load("Siglip2VisionModel", "siglip2_vision_model", **_TINY)


if __name__ == "__main__":
    unittest.main()
