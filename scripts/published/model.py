"""The transformer that a published run trained."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from planner.cost.analytic.transformer import Transformer, latent_projections
from scripts.published.case import Unreadable

__all__ = ["model_of"]

_DEFAULT_VOCAB = 51200
_TARGET_SHARE = 0.25
"""Of T5 where rows do not state it: 512 and 128 in Megatron's recipes."""
_LATENT = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_OF_ANY_SIZE = ("experts", "gated", "seq", "top_k", "untied_embeddings",
                "vocab", "window")
_OF_ANY_DEPTH = ("expert_ffn", "ffn", "head_dim", "heads", "hidden",
                 "kv_heads")
_TABLE = Path(__file__).with_name("models.yaml")


@functools.cache
def _known() -> tuple[Mapping[str, Any], ...]:
    return tuple(yaml.safe_load(_TABLE.read_text(encoding="utf-8")))


def model_of(raw: Mapping[str, Any]) -> Transformer:
    """The model of a row; what is not stated is looked up by its name.

    Raises
    ------
    Unreadable
        When neither tells its sizes.
    """
    name = str(raw.get("name", ""))
    known = next((m for m in _known() if m["match"] in _joined(name)), {})
    raw = {**_agreeing(raw, known), **_stated(raw)}
    get = _Fields(raw)
    layers = get.whole("layers")
    encoder, decoder = (int(raw.get(n) or 0)
                        for n in ("encoder_layers", "decoder_layers"))
    if not layers and decoder:
        layers = encoder + decoder
    hidden, heads = get.whole("hidden"), get.whole("heads")
    if not (layers and hidden):
        raise Unreadable(f"{name}: layers and hidden size are not stated")
    seq = get.whole("seq")
    if not seq:
        raise Unreadable(f"{name}: the sequence length is not stated")
    heads = heads or max(hidden // 128, 1)
    if min(layers, hidden, heads, seq) < 1:
        raise Unreadable(f"{name}: sizes must be positive")
    kv_heads = get.whole("kv_heads") or heads
    gated = bool(get.value("gated_mlp", "gated"))
    ffn = get.whole("ffn") or _ffn(hidden, gated)
    experts = get.whole("experts")
    dense_layers = int(raw.get("dense_layers") or 0)
    return Transformer(layers=layers,
                       hidden=hidden,
                       heads=heads,
                       kv_heads=kv_heads,
                       ffn=ffn,
                       vocab=get.whole("vocab") or _DEFAULT_VOCAB,
                       seq=seq,
                       gated=gated,
                       experts=experts,
                       top_k=get.whole("top_k") or (2 if experts else 0),
                       expert_ffn=(get.whole("moe_ffn", "expert_ffn")
                                   or (ffn if experts else 0)),
                       shared_ffn=get.whole("shared_expert_ffn"),
                       expert_layers=layers - dense_layers if experts else 0,
                       cross_layers=decoder,
                       target_share=_TARGET_SHARE if decoder else 1.0,
                       causal=not _is_encoder(raw, name),
                       attended=_attended(get.whole("window"), seq),
                       tied=_tied(raw, name),
                       **_heads(raw, hidden, heads, kv_heads,
                                get.whole("head_dim") or hidden / heads))


def _is_encoder(raw: Mapping[str, Any], name: str) -> bool:
    """Whether tokens attend to later ones too; what is no family of this
    model's tells nothing."""
    return "bert" in f"{raw.get('family')} {name}".lower()


def _attended(window: int, seq: int) -> float:
    """Share of the earlier tokens that are attended to where every second
    layer has a window, 0 for none."""
    return (1 + min(2 * window / seq, 1)) / 2 if window else 1.0


def _joined(name: str) -> str:
    """A name as the table has it: in lower case, its words run together, and
    "-" where a digit follows a digit."""
    plain = re.sub(r"(?<=\d)[ _\-]+(?=\d)", "-", name.lower())
    plain = re.sub(r"[ _]|(?<!\d)-|-(?!\d)", "", plain)
    return re.sub(r"llama3([1-3])-", r"llama3.\1-", plain)


def _stated(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if value is not None}


def _agreeing(raw: Mapping[str, Any], known: Mapping[str,
                                                     Any]) -> dict[str, Any]:
    """What is known of a model of that name: of one of another depth what its
    layers have, of another width its vocabulary and kind."""
    deep, wide = (raw.get(name) in (None, known.get(name))
                  for name in ("layers", "hidden"))
    kept = _OF_ANY_SIZE + (_OF_ANY_DEPTH if wide else ())
    return {n: known[n] for n in known if (deep and wide) or n in kept}


class _Fields:
    """Numbers of a row, and of the known model of that name."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table

    def value(self, *names: str) -> Any:
        found = (self.table.get(name) for name in names)
        return next((v for v in found if v is not None), None)

    def whole(self, *names: str) -> int:
        """A whole number such as 512 or 250k; 0 where there is none."""
        value = self.value(*names)
        if isinstance(value, str) and value.lower().endswith("k"):
            return int(float(value[:-1]) * 1000)
        return int(value or 0)


def _ffn(hidden: int, gated: bool) -> int:
    if not gated:
        return 4 * hidden
    return -(-8 * hidden // 3 // 256) * 256


def _tied(raw: Mapping[str, Any], name: str) -> bool:
    if raw.get("untied_embeddings") is not None:
        return not raw["untied_embeddings"]
    large = ("llama", "deepseek", "qwen3-8b", "qwen3-14b", "qwen3-32b",
             "qwen3_", "mixtral", "internlm", "kimi", "gpt oss", "nemotron")
    return not any(part in name.lower() for part in large)


def _heads(raw: Mapping[str, Any], hidden: int, heads: int, kv_heads: int,
           head_dim: float) -> dict[str, float]:
    """Widths of a head and the projections before attention."""
    if not raw.get("kv_lora_rank"):
        return {
            "qk_dim": head_dim,
            "v_dim": head_dim,
            "qkv_parameters": hidden * head_dim * (heads + 2 * kv_heads)
        }
    lacking = [n for n in _LATENT if not raw.get(n)]
    if lacking:
        raise Unreadable(f"{raw.get('name')}: latent attention without "
                         f"{', '.join(lacking)}")
    nope, rope, v_dim = (raw["qk_nope_head_dim"], raw["qk_rope_head_dim"],
                         raw["v_head_dim"])
    return {
        "qk_dim":
        nope + rope,
        "v_dim":
        v_dim,
        "qkv_parameters":
        latent_projections(hidden=hidden,
                           heads=heads,
                           q_rank=raw.get("q_lora_rank") or hidden,
                           kv_rank=raw["kv_lora_rank"],
                           nope_dim=nope,
                           rope_dim=rope,
                           v_dim=v_dim)
    }
