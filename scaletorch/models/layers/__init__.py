"""Layers that the models share."""

from scaletorch.models.layers.attention import Attention, Rotation
from scaletorch.models.layers.decoder import DecoderLayer
from scaletorch.models.layers.latent import LatentAttention, LatentConfig
from scaletorch.models.layers.linear import Embedding, Linear, Table
from scaletorch.models.layers.mlp import GatedMlp, Mlp
from scaletorch.models.layers.rotary import RotaryScaling, Yarn, rotation

__all__ = [
    "Attention", "DecoderLayer", "Embedding", "GatedMlp", "LatentAttention",
    "LatentConfig", "Linear", "Mlp", "RotaryScaling", "Rotation", "Table",
    "Yarn", "rotation"
]
