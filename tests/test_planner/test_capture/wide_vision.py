"""Vision, speech and multi-modal models for the wide sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from tests.model_zoo import BATCH, VOCABULARY, Example, example, tokens

__all__ = ["MODELS"]

MODELS: dict[str, Callable[[], Example]] = {}

_ENCODER = dict(hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0)
_PATCHES = dict(image_size=32, patch_size=8)
_SWIN = dict(embed_dim=16,
             depths=[2, 2],
             num_heads=[2, 4],
             window_size=4,
             image_size=32,
             patch_size=2,
             drop_path_rate=0.0,
             hidden_dropout_prob=0.0,
             attention_probs_dropout_prob=0.0)
_STAGES = dict(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1])

_CLASSIFIERS: dict[str, dict[str, Any]] = {
    "DeiT": {
        **_ENCODER,
        **_PATCHES
    },
    "Beit": {
        **_ENCODER,
        **_PATCHES, "drop_path_rate": 0.0
    },
    "Data2VecVision": {
        **_ENCODER,
        **_PATCHES, "drop_path_rate": 0.0
    },
    "Dinov2": {
        **_ENCODER,
        **_PATCHES
    },
    "Dinov2WithRegisters": {
        **_ENCODER,
        **_PATCHES
    },
    "ViTMSN": {
        **_ENCODER,
        **_PATCHES
    },
    "IJepa": {
        **_ENCODER,
        **_PATCHES
    },
    "Siglip":
    dict(vision_config=dict(hidden_size=32,
                            intermediate_size=64,
                            num_hidden_layers=2,
                            num_attention_heads=4,
                            **_PATCHES)),
    "Swin":
    _SWIN,
    "Swinv2":
    _SWIN,
    "ConvNextV2":
    _STAGES,
    "RegNet":
    dict(_STAGES, embedding_size=8, groups_width=8),
    "MobileNetV1":
    dict(depth_multiplier=0.25, image_size=32, classifier_dropout_prob=0.0),
    "MobileNetV2":
    dict(depth_multiplier=0.25, image_size=32, classifier_dropout_prob=0.0),
    "EfficientNet":
    dict(image_size=32,
         width_coefficient=0.25,
         depth_coefficient=0.2,
         hidden_dim=320,
         dropout_rate=0.0,
         drop_connect_rate=0.0),
    "Segformer":
    dict(num_encoder_blocks=2,
         depths=[1, 1],
         sr_ratios=[2, 1],
         hidden_sizes=[16, 32],
         num_attention_heads=[1, 2],
         patch_sizes=[7, 3],
         strides=[4, 2],
         mlp_ratios=[2, 2],
         hidden_dropout_prob=0.0,
         attention_probs_dropout_prob=0.0,
         classifier_dropout_prob=0.0,
         drop_path_rate=0.0,
         decoder_hidden_size=16),
    "MobileViT":
    dict(image_size=64,
         hidden_sizes=[16, 16, 32],
         neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32],
         num_attention_heads=2,
         hidden_dropout_prob=0.0,
         attention_probs_dropout_prob=0.0,
         classifier_dropout_prob=0.0),
    "PoolFormer":
    dict(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1],
         drop_path_rate=0.0),
    "Bit":
    dict(_STAGES, embedding_size=8, num_groups=4),
    "Pvt":
    dict(image_size=32,
         hidden_sizes=[8, 16, 16, 32],
         depths=[1, 1, 1, 1],
         num_attention_heads=[1, 2, 2, 4],
         hidden_dropout_prob=0.0,
         attention_probs_dropout_prob=0.0,
         drop_path_rate=0.0),
    "PvtV2":
    dict(image_size=32,
         hidden_sizes=[8, 16, 16, 32],
         depths=[1, 1, 1, 1],
         num_attention_heads=[1, 2, 2, 4],
         hidden_dropout_prob=0.0,
         attention_probs_dropout_prob=0.0,
         drop_path_rate=0.0),
    "Focalnet":
    dict(image_size=32,
         embed_dim=16,
         depths=[1, 1],
         patch_size=2,
         focal_levels=[2, 2],
         focal_windows=[3, 3],
         hidden_dropout_prob=0.0,
         drop_path_rate=0.0),
    "Levit":
    dict(image_size=64,
         hidden_sizes=[16, 32, 48],
         num_attention_heads=[2, 4, 4],
         depths=[1, 1, 1],
         key_dim=[8, 8, 8],
         drop_path_rate=0,
         mlp_ratio=[2, 2, 2],
         attention_ratio=[2, 2, 2]),
    "Hiera":
    dict(image_size=[32, 32],
         patch_size=[3, 3],
         patch_stride=[4, 4],
         patch_padding=[1, 1],
         embed_dim=8,
         depths=[1, 1],
         num_heads=[1, 2],
         query_stride=[2, 2],
         masked_unit_size=[4, 4],
         masked_unit_attention=[True, False],
         num_query_pool=1,
         drop_path_rate=0.0),
    "SwiftFormer":
    dict(image_size=32,
         depths=[1, 1, 1, 1],
         embed_dims=[8, 16, 16, 32],
         drop_path_rate=0.0),
}

_SIZES = {"MobileViT": 64, "Levit": 64}
_NAMES = {"Focalnet": "FocalNet", "IJepa": "IJepa"}


def _classifier(name: str, settings: dict[str, Any]) -> Example:
    base = _NAMES.get(name, name)
    config = getattr(hf, f"{base}Config")(num_labels=8, **settings)
    size = _SIZES.get(name, 32)
    inputs = {
        "pixel_values": torch.randn(BATCH, 3, size, size),
        "labels": torch.randint(0, 8, (BATCH, ))
    }
    model = getattr(hf, f"{base}ForImageClassification")(config)
    return model, inputs, None


def _listed(build: Callable[[], Example]) -> Callable[[], Example]:
    MODELS[build.__name__] = example(build)
    return build


for _name, _settings in _CLASSIFIERS.items():
    MODELS[_name] = example(
        lambda name=_name, settings=_settings: _classifier(name, settings))

_TOWER = dict(hidden_size=32,
              intermediate_size=64,
              num_hidden_layers=2,
              num_attention_heads=4)
_TEXT = dict(vocab_size=VOCABULARY,
             max_position_embeddings=32,
             pad_token_id=0,
             bos_token_id=1,
             eos_token_id=2)


@_listed
def siglip() -> Example:
    config = hf.SiglipConfig(text_config={
        **_TOWER,
        **_TEXT, "projection_size": 32
    },
                             vision_config={
                                 **_TOWER,
                                 **_PATCHES
                             })
    inputs = {
        "input_ids": tokens(),
        "return_loss": True,
        "pixel_values": torch.randn(BATCH, 3, 32, 32)
    }
    return hf.SiglipModel(config), inputs, None


@_listed
def blip() -> Example:
    config = hf.BlipConfig(text_config={
        **_TOWER,
        **_TEXT, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "encoder_hidden_size": 32,
        "sep_token_id": 2
    },
                           vision_config={
                               **_TOWER,
                               **_PATCHES
                           },
                           projection_dim=16)
    ids = tokens()
    inputs = {
        "input_ids": ids,
        "labels": ids,
        "pixel_values": torch.randn(BATCH, 3, 32, 32)
    }
    return hf.BlipForConditionalGeneration(config), inputs, None


@_listed
def vilt() -> Example:
    config = hf.ViltConfig(**_ENCODER,
                           **_PATCHES,
                           vocab_size=VOCABULARY,
                           num_labels=8,
                           max_image_length=-1)
    inputs = {
        "input_ids": tokens(),
        "pixel_values": torch.randn(BATCH, 3, 32, 32),
        "labels": torch.rand(BATCH, 8)
    }
    return hf.ViltForQuestionAnswering(config), inputs, None


@_listed
def segmentation() -> Example:
    config = hf.SegformerConfig(num_labels=8, **_CLASSIFIERS["Segformer"])
    inputs = {
        "pixel_values": torch.randn(BATCH, 3, 32, 32),
        "labels": torch.randint(0, 8, (BATCH, 32, 32))
    }
    return hf.SegformerForSemanticSegmentation(config), inputs, None


@_listed
def vit_mae() -> Example:
    config = hf.ViTMAEConfig(**_ENCODER,
                             **_PATCHES,
                             decoder_hidden_size=16,
                             decoder_num_hidden_layers=1,
                             decoder_num_attention_heads=2,
                             decoder_intermediate_size=32)
    inputs = {
        "pixel_values": torch.randn(BATCH, 3, 32, 32),
        "noise": torch.rand(BATCH, 16)
    }
    return hf.ViTMAEForPreTraining(config), inputs, None


@_listed
def whisper() -> Example:
    config = hf.WhisperConfig(d_model=32,
                              encoder_layers=2,
                              decoder_layers=2,
                              encoder_attention_heads=4,
                              decoder_attention_heads=4,
                              encoder_ffn_dim=64,
                              decoder_ffn_dim=64,
                              num_mel_bins=8,
                              max_source_positions=16,
                              max_target_positions=32,
                              dropout=0.0,
                              vocab_size=VOCABULARY,
                              decoder_start_token_id=1,
                              pad_token_id=0,
                              bos_token_id=1,
                              eos_token_id=2,
                              begin_suppress_tokens=None)
    inputs = {"input_features": torch.randn(BATCH, 8, 32), "labels": tokens()}
    return hf.WhisperForConditionalGeneration(config), inputs, None


_SPEECH = dict(hidden_size=32,
               intermediate_size=64,
               num_hidden_layers=2,
               num_attention_heads=4,
               conv_dim=(16, 16),
               conv_kernel=(8, 4),
               conv_stride=(4, 2),
               num_conv_pos_embeddings=8,
               num_conv_pos_embedding_groups=4,
               hidden_dropout=0.0,
               attention_dropout=0.0,
               activation_dropout=0.0,
               feat_proj_dropout=0.0,
               final_dropout=0.0,
               layerdrop=0.0,
               mask_time_prob=0.0,
               apply_spec_augment=False)


def _speech(name: str) -> Example:
    config = getattr(hf, f"{name}Config")(**_SPEECH,
                                          num_labels=8,
                                          classifier_proj_size=16)
    inputs = {
        "input_values": torch.randn(BATCH, 400),
        "labels": torch.randint(0, 8, (BATCH, ))
    }
    model = getattr(hf, f"{name}ForSequenceClassification")(config)
    return model, inputs, None


for _name in ("Wav2Vec2", "Hubert", "WavLM", "UniSpeech", "SEW"):
    MODELS[_name] = example(lambda name=_name: _speech(name))


@_listed
def audio_spectrogram() -> Example:
    config = hf.ASTConfig(**_ENCODER,
                          patch_size=8,
                          num_mel_bins=16,
                          max_length=32,
                          frequency_stride=8,
                          time_stride=8,
                          num_labels=8)
    inputs = {
        "input_values": torch.randn(BATCH, 32, 16),
        "labels": torch.randint(0, 8, (BATCH, ))
    }
    return hf.ASTForAudioClassification(config), inputs, None


@_listed
def patch_tst() -> Example:
    config = hf.PatchTSTConfig(num_input_channels=2,
                               context_length=32,
                               patch_length=4,
                               patch_stride=4,
                               prediction_length=8,
                               d_model=16,
                               num_hidden_layers=2,
                               num_attention_heads=4,
                               ffn_dim=32,
                               attention_dropout=0.0,
                               ff_dropout=0.0,
                               head_dropout=0.0,
                               positional_dropout=0.0,
                               path_dropout=0.0,
                               loss="mse",
                               distribution_output="normal")
    inputs = {
        "past_values": torch.randn(BATCH, 32, 2),
        "future_values": torch.randn(BATCH, 8, 2)
    }
    return hf.PatchTSTForPrediction(config), inputs, None


@_listed
def patch_ts_mixer() -> Example:
    config = hf.PatchTSMixerConfig(num_input_channels=2,
                                   context_length=32,
                                   patch_length=4,
                                   patch_stride=4,
                                   prediction_length=8,
                                   d_model=16,
                                   num_layers=2,
                                   dropout=0.0,
                                   head_dropout=0.0,
                                   loss="mse")
    inputs = {
        "past_values": torch.randn(BATCH, 32, 2),
        "future_values": torch.randn(BATCH, 8, 2)
    }
    return hf.PatchTSMixerForPrediction(config), inputs, None


@_listed
def decision_transformer() -> Example:
    config = hf.DecisionTransformerConfig(state_dim=4,
                                          act_dim=2,
                                          hidden_size=32,
                                          n_layer=2,
                                          n_head=4,
                                          max_ep_len=16,
                                          resid_pdrop=0.0,
                                          embd_pdrop=0.0,
                                          attn_pdrop=0.0)
    inputs = {
        "states": torch.randn(BATCH, 8, 4),
        "actions": torch.randn(BATCH, 8, 2),
        "rewards": torch.randn(BATCH, 8, 1),
        "returns_to_go": torch.randn(BATCH, 8, 1),
        "timesteps": torch.arange(8).repeat(BATCH, 1),
        "attention_mask": torch.ones(BATCH, 8)
    }
    return hf.DecisionTransformerModel(config), inputs, None
