"""Language models for the wide sweep: class name to its small settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as hf

from tests.model_zoo import VOCABULARY, Example, example, tokens

__all__ = ["MODELS"]

MODELS: dict[str, Callable[[], Example]] = {}

_DECODER = dict(hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2)
_MULTI_HEAD = {**_DECODER, "num_key_value_heads": 4}
_IDS = dict(vocab_size=VOCABULARY,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2)
_EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)

_CAUSAL: dict[str, dict[str, Any]] = {
    "OPT":
    dict(hidden_size=32,
         ffn_dim=64,
         num_hidden_layers=2,
         num_attention_heads=4,
         dropout=0.0,
         word_embed_proj_dim=32,
         max_position_embeddings=64),
    "GPTNeo":
    dict(hidden_size=32,
         num_layers=2,
         num_heads=4,
         attention_types=[[["global", "local"], 1]],
         max_position_embeddings=64,
         window_size=8,
         embed_dropout=0.0,
         attention_dropout=0.0,
         resid_dropout=0.0),
    "GPTNeoX":
    dict(hidden_size=32,
         intermediate_size=64,
         num_hidden_layers=2,
         num_attention_heads=4),
    "GPTJ":
    dict(n_embd=32,
         n_layer=2,
         n_head=4,
         rotary_dim=4,
         n_positions=64,
         resid_pdrop=0.0,
         embd_pdrop=0.0,
         attn_pdrop=0.0),
    "GPTBigCode":
    dict(n_embd=32,
         n_layer=2,
         n_head=4,
         n_positions=64,
         resid_pdrop=0.0,
         embd_pdrop=0.0,
         attn_pdrop=0.0),
    "Bloom":
    dict(hidden_size=32, n_layer=2, n_head=4),
    "Falcon":
    dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
    "Mpt":
    dict(d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    "Mistral":
    _DECODER,
    "Qwen2":
    _DECODER,
    "Qwen2Moe": {
        **_DECODER,
        **_EXPERTS, "shared_expert_intermediate_size": 32
    },
    "Qwen3Moe": {
        **_DECODER,
        **_EXPERTS, "head_dim": 8
    },
    "Gemma": {
        **_DECODER, "head_dim": 8
    },
    "Gemma3": {
        **_DECODER, "head_dim": 8,
        "sliding_window": 8
    },
    "Phi": {
        **_MULTI_HEAD, "resid_pdrop": 0.0,
        "embd_pdrop": 0.0
    },
    "StableLm":
    _MULTI_HEAD,
    "Olmo":
    _DECODER,
    "Olmo2":
    _DECODER,
    "Olmoe": {
        **_DECODER, "num_experts": 4,
        "num_experts_per_tok": 2
    },
    "Cohere":
    _DECODER,
    "Cohere2": {
        **_DECODER, "sliding_window": 8
    },
    "Granite":
    _DECODER,
    "GraniteMoe": {
        **_DECODER, "num_local_experts": 4,
        "num_experts_per_tok": 2
    },
    "DeepseekV2":
    dict(_MULTI_HEAD,
         n_routed_experts=4,
         num_experts_per_tok=2,
         moe_intermediate_size=32,
         first_k_dense_replace=1,
         kv_lora_rank=16,
         q_lora_rank=16,
         qk_nope_head_dim=8,
         qk_rope_head_dim=8,
         v_head_dim=8,
         n_group=1,
         topk_group=1,
         n_shared_experts=1),
    "DeepseekV3":
    dict(_MULTI_HEAD,
         n_routed_experts=4,
         num_experts_per_tok=2,
         moe_intermediate_size=32,
         first_k_dense_replace=1,
         kv_lora_rank=16,
         q_lora_rank=16,
         qk_nope_head_dim=8,
         qk_rope_head_dim=8,
         v_head_dim=8,
         n_group=2,
         topk_group=1,
         n_shared_experts=1),
    "Starcoder2":
    dict(_DECODER, residual_dropout=0.0, embedding_dropout=0.0),
    "Persimmon":
    dict(hidden_size=32,
         intermediate_size=64,
         num_hidden_layers=2,
         num_attention_heads=4),
    "Helium": {
        **_DECODER, "head_dim": 8
    },
    "Glm": {
        **_DECODER, "head_dim": 8
    },
    "Nemotron": {
        **_DECODER, "head_dim": 8
    },
    "SmolLM3":
    _DECODER,
    "GptOss": {
        **_DECODER, "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8
    },
    "Llama4": {
        **_DECODER, "head_dim": 8,
        "num_local_experts": 4,
        "intermediate_size_mlp": 64,
        "attention_chunk_size": 8
    },
    "Mamba":
    dict(hidden_size=32, state_size=4, num_hidden_layers=2),
    "Mamba2":
    dict(hidden_size=32,
         state_size=4,
         num_hidden_layers=2,
         num_heads=8,
         head_dim=8,
         n_groups=2,
         chunk_size=8),
    "FalconMamba":
    dict(hidden_size=32, state_size=4, num_hidden_layers=2),
    "Jamba": {
        **_DECODER, "num_experts": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 4,
        "use_mamba_kernels": False
    },
    "Rwkv":
    dict(hidden_size=32, num_hidden_layers=2, attention_hidden_size=32),
    "RecurrentGemma": {
        **_DECODER, "num_hidden_layers": 3,
        "lru_width": 32,
        "attention_window_size": 8
    },
    "Codegen":
    dict(n_embd=32,
         n_layer=2,
         n_head=4,
         rotary_dim=4,
         n_positions=64,
         n_ctx=64,
         resid_pdrop=0.0,
         embd_pdrop=0.0,
         attn_pdrop=0.0),
    "Xglm":
    dict(d_model=32,
         ffn_dim=64,
         num_layers=2,
         attention_heads=4,
         dropout=0.0,
         attention_dropout=0.0,
         activation_dropout=0.0,
         max_position_embeddings=64),
}

_NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
_ENCODER = dict(hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                **_NO_DROPOUT)

_MASKED: dict[str, dict[str, Any]] = {
    "Roberta":
    _ENCODER,
    "XLMRoberta":
    _ENCODER,
    "Albert": {
        **_ENCODER, "embedding_size": 16,
        "num_hidden_groups": 1
    },
    "Electra": {
        **_ENCODER, "embedding_size": 16
    },
    "DistilBert":
    dict(dim=32,
         hidden_dim=64,
         n_layers=2,
         n_heads=4,
         dropout=0.0,
         attention_dropout=0.0),
    "DebertaV2": {
        **_ENCODER, "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8
    },
    "Deberta": {
        **_ENCODER, "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "max_relative_positions": 8
    },
    "MPNet":
    _ENCODER,
    "BigBird": {
        **_ENCODER, "attention_type": "original_full"
    },
    "Longformer": {
        **_ENCODER, "attention_window": 8
    },
    "Funnel":
    dict(d_model=32,
         d_head=8,
         d_inner=64,
         n_head=4,
         block_sizes=[1, 1],
         hidden_dropout=0.0,
         attention_dropout=0.0,
         activation_dropout=0.0),
    "MobileBert": {
        **_ENCODER, "embedding_size": 16,
        "intra_bottleneck_size": 16,
        "true_hidden_size": 16
    },
    "SqueezeBert": {
        **_ENCODER, "embedding_size": 32
    },
    "ConvBert": {
        **_ENCODER, "embedding_size": 32
    },
    "RoFormer": {
        **_ENCODER, "embedding_size": 32
    },
    "FNet":
    dict(hidden_size=32,
         intermediate_size=64,
         num_hidden_layers=2,
         hidden_dropout_prob=0.0),
    "Esm": {
        **_ENCODER, "mask_token_id": 3,
        "pad_token_id": 1,
        "position_embedding_type": "rotary"
    },
    "IBert":
    _ENCODER,
    "MegatronBert":
    _ENCODER,
    "XLM":
    dict(emb_dim=32, n_layers=2, n_heads=4, dropout=0.0,
         attention_dropout=0.0),
}

_SEQ2SEQ_SIZES = dict(d_model=32,
                      encoder_layers=2,
                      decoder_layers=2,
                      encoder_attention_heads=4,
                      decoder_attention_heads=4,
                      encoder_ffn_dim=64,
                      decoder_ffn_dim=64,
                      dropout=0.0,
                      attention_dropout=0.0,
                      activation_dropout=0.0,
                      max_position_embeddings=64,
                      decoder_start_token_id=2,
                      forced_eos_token_id=2)
_T5 = dict(d_model=32,
           d_kv=8,
           d_ff=64,
           num_layers=2,
           num_heads=4,
           dropout_rate=0.0,
           decoder_start_token_id=0)

_SEQ2SEQ: dict[str, dict[str, Any]] = {
    "Bart":
    _SEQ2SEQ_SIZES,
    "MBart":
    _SEQ2SEQ_SIZES,
    "Pegasus":
    _SEQ2SEQ_SIZES,
    "M2M100": {
        **_SEQ2SEQ_SIZES, "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0
    },
    "Blenderbot":
    _SEQ2SEQ_SIZES,
    "Marian": {
        **_SEQ2SEQ_SIZES, "decoder_vocab_size": VOCABULARY
    },
    "PLBart":
    _SEQ2SEQ_SIZES,
    "BigBirdPegasus": {
        **_SEQ2SEQ_SIZES, "attention_type": "original_full"
    },
    "LED": {
        **_SEQ2SEQ_SIZES, "attention_window": 8,
        "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64
    },
    "MT5":
    _T5,
    "UMT5":
    _T5,
    "LongT5": {
        **_T5, "local_radius": 4,
        "global_block_size": 4
    },
    "SwitchTransformers": {
        **_T5, "num_experts": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "router_jitter_noise": 0.0
    },
    "ProphetNet":
    dict(hidden_size=32,
         num_encoder_layers=2,
         num_decoder_layers=2,
         num_encoder_attention_heads=4,
         num_decoder_attention_heads=4,
         encoder_ffn_dim=64,
         decoder_ffn_dim=64,
         dropout=0.0,
         attention_dropout=0.0,
         activation_dropout=0.0,
         max_position_embeddings=64,
         decoder_start_token_id=2),
}

_CONFIGS = {
    "GraniteMoe": "GraniteMoeConfig",
    "Gemma3": "Gemma3TextConfig",
    "Llama4": "Llama4TextConfig",
    "Codegen": "CodeGenConfig",
    "Xglm": "XGLMConfig"
}
_CLASSES = {
    "XLM": "XLMWithLMHeadModel",
    "Marian": "MarianMTModel",
    "Codegen": "CodeGenForCausalLM",
    "GPTNeo": "GPTNeoForCausalLM",
    "GPT2": "GPT2LMHeadModel",
    "Xglm": "XGLMForCausalLM"
}
_NEED_MASK = ("LongT5", "SwitchTransformers")


def _config(name: str, settings: Mapping[str, Any]) -> Any:
    config = getattr(hf, _CONFIGS.get(name, f"{name}Config"))
    return config(**{**_IDS, **settings})


def _language_model(name: str, suffix: str, settings: Mapping[str,
                                                              Any]) -> Example:
    cls = getattr(hf, _CLASSES.get(name, f"{name}For{suffix}"))
    ids = tokens()
    inputs = {"input_ids": ids, "labels": ids}
    if name in _NEED_MASK:
        inputs["attention_mask"] = torch.ones_like(ids)
        inputs["decoder_attention_mask"] = torch.ones_like(ids)
    return cls(_config(name, settings)), inputs, None


def _list(name: str, suffix: str, settings: Mapping[str, Any]) -> None:
    MODELS[name] = example(lambda: _language_model(name, suffix, settings))


for _name, _settings in _CAUSAL.items():
    _list(_name, "CausalLM", _settings)
for _name, _settings in _MASKED.items():
    _list(_name, "MaskedLM", _settings)
for _name, _settings in _SEQ2SEQ.items():
    _list(_name, "ConditionalGeneration", _settings)


def _padded() -> Example:
    """Padding: the mask depends on an input, so it has to stay."""
    model = hf.LlamaForCausalLM(_config("Llama", _DECODER))
    ids = tokens()
    padding = torch.ones_like(ids)
    padding[:, :3] = 0
    inputs = {"input_ids": ids, "labels": ids, "attention_mask": padding}
    return model, inputs, None


MODELS["LlamaPadded"] = example(_padded)
