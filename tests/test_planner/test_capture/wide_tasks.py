"""Hugging Face's heads, detectors, speech and models of several inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from tests.model_zoo import BATCH, VOCABULARY, Example, example, tokens
from tests.test_planner.test_capture.tiny import tiny_config

__all__ = ["MODELS"]

MODELS: dict[str, Callable[[], Example]] = {}

_Inputs = Callable[[], dict[str, Any]]
_IMAGE = VOCABULARY - 1
_TOWER = dict(hidden_size=32,
              intermediate_size=64,
              num_hidden_layers=2,
              num_attention_heads=4)
_PATCHES = dict(**_TOWER, image_size=32, patch_size=8)
_LANGUAGE = dict(model_type="llama",
                 **_TOWER,
                 num_key_value_heads=2,
                 vocab_size=VOCABULARY,
                 pad_token_id=0)
_RESNET = dict(hidden_sizes=[8, 16, 16, 32],
               depths=[1, 1, 1, 1],
               embedding_size=8,
               layer_type="basic")
_WAVES = dict(conv_dim=(16, 16),
              conv_kernel=(8, 4),
              conv_stride=(4, 2),
              num_feat_extract_layers=2,
              num_conv_pos_embeddings=8,
              num_conv_pos_embedding_groups=4,
              mask_time_prob=0.0,
              layerdrop=0.0,
              apply_spec_augment=False)


def _pixels(size: int = 32) -> dict[str, Any]:
    return {"pixel_values": torch.randn(BATCH, 3, size, size)}


def _boxes(size: int) -> dict[str, Any]:
    labels = [{
        "class_labels": torch.randint(0, 2, (2, )),
        "boxes": torch.rand(2, 4) * 0.4 + 0.3
    } for _ in range(BATCH)]
    return {**_pixels(size), "labels": labels}


def _marked(count: int) -> dict[str, Any]:
    """Text with the places of an image's features."""
    ids = torch.cat([tokens(), tokens()], 1).clamp(max=_IMAGE - 1)
    ids[:, 1:1 + count] = _IMAGE
    return {**_pixels(), "input_ids": ids, "labels": ids.clone()}


def _text(**more: Any) -> dict[str, Any]:
    return {"input_ids": tokens(), **more}


def _classes(*shape: int) -> torch.Tensor:
    return torch.randint(0, 2, (BATCH, *shape))


def _waves(labels: torch.Tensor) -> dict[str, Any]:
    return {"input_values": torch.randn(BATCH, 400), "labels": labels}


def _backbone() -> dict[str, Any]:
    config = hf.ResNetConfig(out_features=["stage4"], **_RESNET)
    return dict(use_timm_backbone=False,
                use_pretrained_backbone=False,
                backbone=None,
                num_queries=5,
                backbone_config=config)


_TASKS: dict[str, tuple[Callable[[], dict[str, Any]], _Inputs]] = {
    "BertForTokenClassification": (dict, lambda: _text(labels=_classes(16))),
    "BertForPreTraining":
    (dict, lambda: _text(labels=tokens(), next_sentence_label=_classes())),
    "LayoutLMForTokenClassification":
    (lambda: dict(max_2d_position_embeddings=64),
     lambda: _text(bbox=torch.randint(0, 50, (BATCH, 16, 4)).sort(-1)[0],
                   labels=_classes(16))),
    "CanineForSequenceClassification":
    (dict, lambda: _text(labels=_classes())),
    "BartForSequenceClassification": (dict, lambda: {
        "input_ids":
        torch.cat([tokens()[:, 1:].clamp(min=3),
                   torch.full((BATCH, 1), 2)], 1),
        "labels":
        _classes()
    }),
    "VisualBertForVisualReasoning":
    (lambda: dict(visual_embedding_dim=16),
     lambda: _text(attention_mask=torch.ones(BATCH, 16, dtype=torch.long),
                   visual_embeds=torch.randn(BATCH, 5, 16),
                   labels=_classes())),
    "LlavaForConditionalGeneration": (lambda: dict(
        vision_config=dict(model_type="clip_vision_model", **_PATCHES),
        text_config=_LANGUAGE,
        image_token_id=_IMAGE,
        image_token_index=_IMAGE), lambda: _marked(16)),
    "GitForCausalLM": (lambda: dict(vision_config=_PATCHES),
                       lambda: _text(labels=tokens(), **_pixels())),
    "DetrForObjectDetection": (_backbone, lambda: _boxes(64)),
    "YolosForObjectDetection":
    (lambda: dict(image_size=[32, 32], num_detection_tokens=5),
     lambda: _boxes(32)),
    "Wav2Vec2ForCTC": (lambda: _WAVES,
                       lambda: _waves(torch.randint(1, 20, (BATCH, 5)))),
    "HubertForCTC": (lambda: _WAVES,
                     lambda: _waves(torch.randint(1, 20, (BATCH, 5)))),
    "SEWDForSequenceClassification": (lambda: {
        **_WAVES, "position_buckets": 8
    }, lambda: _waves(_classes())),
    "Speech2TextForConditionalGeneration":
    (lambda: dict(input_feat_per_channel=16,
                  conv_channels=16,
                  num_conv_layers=2,
                  encoder_layerdrop=0.0,
                  decoder_layerdrop=0.0),
     lambda: dict(input_features=torch.randn(BATCH, 32, 16), labels=tokens())),
}


def _model(name: str) -> Example:
    settings, inputs = _TASKS[name]
    kind = getattr(hf, name)
    return kind(tiny_config(kind.config_class, settings())), inputs(), None


for _name in _TASKS:
    MODELS[_name] = example(lambda name=_name: _model(name))
