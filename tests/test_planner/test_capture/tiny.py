"""Tiny configs of Hugging Face models, whatever their fields are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers as hf

from tests.model_zoo import VOCABULARY

__all__ = ["tiny_config"]

_SIZES: dict[int, tuple[str, ...]] = {
    32: ("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embed_dim",
         "embedding_size", "encoder_hidden_size", "moe_intermediate_size",
         "shared_expert_intermediate_size", "shared_intermediate_size",
         "moe_shared_expert_intermediate_size", "image_size"),
    64:
    ("intermediate_size", "ffn_dim", "d_ff", "d_inner", "hidden_dim",
     "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "ffn_hidden_size",
     "max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length",
     "max_source_positions", "max_target_positions"),
    2: ("num_hidden_layers", "num_layers", "n_layer", "n_layers",
        "encoder_layers", "decoder_layers", "num_encoder_layers",
        "num_decoder_layers", "num_key_value_heads", "num_kv_heads",
        "num_experts_per_tok", "moe_k", "moe_topk", "moe_top_k",
        "eos_token_id", "decoder_start_token_id", "forced_eos_token_id",
        "sep_token_id", "linear_num_key_heads", "type_vocab_size"),
    4: ("num_attention_heads", "num_heads", "n_head", "n_heads",
        "encoder_attention_heads", "decoder_attention_heads", "num_experts",
        "num_local_experts", "n_routed_experts", "moe_num_experts",
        "linear_num_value_heads", "state_size", "mamba_d_state"),
    8: ("head_dim", "d_kv", "d_head", "kv_channels", "sliding_window",
        "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "chunk_size",
        "mamba_n_heads", "mamba_d_head", "mamba_chunk_size", "mamba_num_heads",
        "mamba_head_dim", "linear_key_head_dim", "linear_value_head_dim",
        "position_buckets", "num_buckets", "num_labels", "patch_size"),
    16: ("kv_lora_rank", "q_lora_rank", "projection_dim", "num_mel_bins"),
    1: ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts",
        "n_group", "topk_group", "first_k_dense_replace", "mamba_n_groups",
        "bos_token_id"),
    0: ("pad_token_id", "use_mamba_kernels"),
    VOCABULARY: ("vocab_size", "decoder_vocab_size")
}
_TINY = {name: size for size, names in _SIZES.items() for name in names}


def tiny_config(kind: type[hf.PreTrainedConfig],
                settings: Mapping[str, Any] | None = None) -> Any:
    """A config of a few small layers without dropout.

    Parameters
    ----------
    kind : type
    settings : mapping, optional
        Fields whose names say too little of them.
    """
    given = dict(settings or {})
    for name, value in kind().to_dict().items():
        if name in given:
            continue
        if isinstance(value, (int, float)) and "drop" in name:
            given[name] = type(value)(0)
        elif name in _TINY and (value is None or isinstance(value, int)):
            if value is not None or name.endswith("_token_id"):
                given[name] = _TINY[name]
        elif name.endswith("_token_id") and isinstance(
                value, int) and value >= VOCABULARY:
            given[name] = VOCABULARY - 1
    return kind(use_cache=False, **given)
