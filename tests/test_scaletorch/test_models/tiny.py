"""Every family at a size for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from scaletorch import models

__all__ = ["TINY", "documents", "tiny"]

_DECODER: dict[str, Any] = dict(vocabulary_size=64,
                                width=32,
                                depth=2,
                                heads=4,
                                kv_heads=2,
                                hidden_width=48,
                                context=16)
_ENCODER: dict[str, Any] = dict(width=32, depth=2, heads=4)
_LATENT: dict[str, Any] = dict(plain_dim=8, rotary_dim=4, value_dim=6)
_IMAGES: dict[str, Any] = dict(image=8, classes=8)


def _router(**fields: Any) -> models.RouterConfig:
    return models.RouterConfig(**{
        "experts": 4,
        "active": 2,
        "balance_weight": 0.0,
        **fields
    })


TINY: dict[str, dict[str, Any]] = {
    "llama3-8b":
    _DECODER,
    "qwen3-0.6b": {
        **_DECODER, "head_dim": 16
    },
    "mixtral-8x7b":
    dict(_DECODER, head_dim=8, router=_router()),
    "qwen3-30b-a3b":
    dict(_DECODER, head_dim=16, router=_router()),
    "deepseek-v2-lite":
    dict(_DECODER,
         dense_width=40,
         latent=models.LatentConfig(width=24, **_LATENT),
         router=_router(normalised=False)),
    "deepseek-v3":
    dict(_DECODER,
         depth=3,
         dense_depth=1,
         dense_width=40,
         latent=models.LatentConfig(width=24, query_width=20, **_LATENT),
         router=_router(experts=8,
                        active=3,
                        kind="sigmoid",
                        scale=2.5,
                        groups=4,
                        active_groups=2,
                        corrected=True)),
    "gpt2":
    dict(_ENCODER, vocabulary_size=64, context=16),
    "bert-base":
    dict(_ENCODER, vocabulary_size=64, context=16),
    "t5-small":
    dict(_ENCODER,
         hidden_width=48,
         head_dim=16,
         vocabulary_size=64,
         context=16),
    "vit-b16":
    dict(_ENCODER, patch=4, **_IMAGES),
    "vit-22b":
    dict(_ENCODER, patch=4, **_IMAGES),
    "resnet18":
    dict(depths=(1, 1), width=8, image=16, classes=8),
    "resnet50":
    dict(depths=(1, 2), width=8, image=16, classes=8),
    "dlrm-criteo":
    dict(rows=(40, 24, 16),
         width=16,
         dense=8,
         bottom=(16, ),
         top=(16, ),
         bag=3),
    "dit-s":
    dict(_ENCODER, latent=8, classes=8),
}
"""A name of each family and the fields that make it small."""


def tiny(name: str, **overrides: Any) -> nn.Module:
    """A seeded model in double, in training mode."""
    torch.manual_seed(0)
    made = models.build(name, **{**TINY[name], **overrides})
    return made.double().train()


def documents(tokens: torch.Tensor, cut: int) -> dict[str, torch.Tensor]:
    """Inputs for sequences of two documents, of which one ends at `cut`."""
    places = torch.arange(tokens.shape[1])
    second = places >= cut
    mask = (second == second[:, None]).tril()
    return {
        "position_ids": (places - cut * second).expand_as(tokens),
        "attention_mask": mask.expand(len(tokens), 1, -1, -1)
    }
