"""What the model of a Hugging Face config is called with."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["config_inputs", "returns_loss"]

_TOKENS = 4096
_IMAGE = 224
_ONE_EACH = ("SequenceClassification", "ImageClassification",
             "AudioClassification", "VideoClassification")
"""Kinds of model with one label for each row."""
_OTHERS = {"pixel_values", "pixel_values_videos", "input_features"}
"""What models of several kinds of input may be called with, too."""
_BOXES = "ObjectDetection"
"""Whose labels are matched with boxes by their values."""
_ANSWERS = ("start_positions", "end_positions")


def config_inputs(model: nn.Module, config: Any, *, batch: int,
                  sequence: int | None,
                  dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A batch of what a model reads first, with labels if it takes any.

    Tokens, images, videos or sounds, by the model's main input; of models
    that compare two of them, both.

    Parameters
    ----------
    model : nn.Module
        Of transformers, from this config.
    config : PretrainedConfig
    batch, sequence : int
        Rows, and tokens in each (of sounds, frames); 4096 or as many as the
        model has positions if left out.
    dtype : torch.dtype
        Of what is no token.

    Raises
    ------
    ValueError
        When there are fewer positions, or the inputs are of another kind.
    """
    call = _Call(model=model,
                 config=config,
                 batch=batch,
                 sequence=_sequence(model, config, sequence),
                 dtype=dtype)
    given = {**call.read(), **call.labels()}
    left = sorted(_OTHERS & set(_names(model)) - set(given))
    if left:
        warnings.warn(
            f"{type(model).__name__} is called without {' and '.join(left)}: "
            "what reads them is not in the plan; to plan for both, write a "
            "Python file with get_model() and get_inputs()",
            stacklevel=2)
    return given


def returns_loss(model: nn.Module) -> bool:
    """Whether a model computes a loss from what it is called with."""
    return _takes_labels(model) or bool({"return_loss", *_ANSWERS}
                                        & set(_names(model)))


def _takes_labels(model: nn.Module) -> bool:
    return "labels" in _names(
        model) and not type(model).__name__.endswith(_BOXES)


def _names(model: nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(model.forward).parameters)


def _sequence(model: nn.Module, config: Any, given: int | None) -> int:
    table = _positions(model, config)
    if table is None:
        return given or _TOKENS
    name, most = table
    if given is not None and given > most:
        raise ValueError(
            f"--seq {given} is longer than the {most} positions of {name} "
            "(max_position_embeddings in the config); make one of them fit "
            "the other")
    return given or min(most, _TOKENS)


def _positions(model: nn.Module, config: Any) -> tuple[str, int] | None:
    """Positions in a table end with it; those that are computed do not."""
    text = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None) or getattr(
        text, "max_target_positions", None)
    if not isinstance(most, int):
        return None
    for name, module in model.named_modules():
        # Some tables have a few rows for padding.
        if (isinstance(module, nn.Embedding)
                and most <= module.num_embeddings <= most + 2):
            return name, most
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:

    model: nn.Module
    config: Any
    batch: int
    sequence: int
    dtype: torch.dtype

    def read(self) -> dict[str, torch.Tensor]:
        main, names = str(self.model.main_input_name), _names(self.model)
        wanted = {main}
        if "return_loss" in names:
            wanted |= {"input_ids", "pixel_values"} & set(names)
        makers: dict[str, Callable[[], torch.Tensor]] = {
            "input_ids": self._tokens,
            "pixel_values": self._images,
            "input_features": self._spectrum,
            "input_values": self._sound
        }
        if main not in makers:
            raise self._unknown(main)
        return {n: makers[n]() for n in makers if n in wanted}

    def labels(self) -> dict[str, Any]:
        names, kind = _names(self.model), type(self.model).__name__
        if "return_loss" in names:
            return {"return_loss": True}
        if set(_ANSWERS) <= set(names):
            return {n: self._ids() for n in _ANSWERS}
        if not _takes_labels(self.model):
            return {}
        if kind.endswith(_ONE_EACH):
            return {"labels": self._ids()}
        if kind.endswith("SemanticSegmentation"):
            return {"labels": self._ids(*self._image_size())}
        return {"labels": self._tokens()}

    def _unknown(self, name: str) -> ValueError:
        return ValueError(
            f"a {type(self.model).__name__} is called with {name}, of which "
            "its config does not say the size; write a Python file with "
            "get_model() and get_inputs()")

    def _ids(self, *sizes: int) -> torch.Tensor:
        return torch.zeros(self.batch, *sizes, dtype=torch.int64)

    def _tokens(self) -> torch.Tensor:
        return self._ids(self.sequence)

    def _zeros(self, *sizes: int) -> torch.Tensor:
        return torch.zeros(self.batch, *sizes, dtype=self.dtype)

    @property
    def _vision(self) -> Any:
        for name in ("vision_config", "encoder"):
            if hasattr(self.config, name):
                return getattr(self.config, name)
        return self.config

    def _image_size(self) -> tuple[int, int]:
        if "spatial_shapes" in _names(self.model):
            raise self._unknown("pixel_values")
        size = getattr(self._vision, "image_size", None)
        if size is None:
            # Convolutions take any.
            size = _IMAGE
            warnings.warn(
                f"the config says no image_size: {size} x {size} is taken",
                stacklevel=2)
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    def _images(self) -> torch.Tensor:
        frames = getattr(self._vision, "num_frames", None)
        channels = getattr(self._vision, "num_channels", 3)
        return self._zeros(*(() if frames is None else (frames, )), channels,
                           *self._image_size())

    def _spectrum(self) -> torch.Tensor:
        if hasattr(self.config, "num_mel_bins"):
            # Whisper's convolutions halve its number of frames.
            return self._zeros(self.config.num_mel_bins,
                               2 * self.config.max_source_positions)
        features = getattr(self.config, "feature_projection_input_dim", None)
        if features is None:
            raise self._unknown("input_features")
        return self._zeros(self.sequence, features)

    def _sound(self) -> torch.Tensor:
        if hasattr(self.config, "num_mel_bins"):
            return self._zeros(self.config.max_length,
                               self.config.num_mel_bins)
        strides = getattr(self.config, "conv_stride", None)
        if strides is None:
            raise self._unknown("input_values")
        return self._zeros(self.sequence * math.prod(strides))
