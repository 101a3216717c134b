"""What a training run is: frozen sections, from YAML and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from planner.yaml_data import read_yaml
from scaletorch.trainer.overrides import overridden
from scaletorch.trainer.typed import from_mapping, to_mapping

__all__ = [
    "CheckpointConfig", "Config", "MetricsConfig", "ModelConfig",
    "OptimizerConfig", "ProfileConfig", "ScheduleConfig", "TrainConfig",
    "load_config"
]


def _check(condition: bool, text: str) -> None:
    if not condition:
        raise ValueError(text)


def _check_axes(mesh: Mapping[str, int]) -> None:
    sizes = list(mesh.values())
    _check(
        len(sizes) > 0 and sizes.count(-1) < 2
        and all(size >= 1 or size == -1 for size in sizes),
        "mesh must have axes with sizes from 1 on, of which one may be -1, "
        f"got {dict(mesh)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What is trained.

    Parameters
    ----------
    name : str, optional
        Of ``python -m scaletorch.models``; this or `hugging_face`.
    overrides : mapping
        Fields of the model's config, such as ``depth: 2``.
    hugging_face : str, optional
        A ``config.json`` of Hugging Face's, or a folder with one.
    weights : str, optional
        What ``scaletorch.load_checkpoint`` reads, for the start; left out:
        random weights.
    """

    name: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    hugging_face: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        _check((self.name is None) != (self.hugging_face is None),
               "name must be given, or else hugging_face, and not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """How gradients become updates.

    Parameters
    ----------
    name : str
        The optimizer.
    weight_decay : float
        For parameters of two dims and more; others do not decay.
    betas : tuple of float
        Of adamw.
    epsilon : float
        Of adamw.
    momentum : float
        Of sgd.
    fused : bool
        Of adamw: whether one kernel updates all parameters, where torch has
        one for the device.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    epsilon: float = 1e-8
    momentum: float = 0.0
    fused: bool = True

    def __post_init__(self) -> None:
        _check(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            f"betas must be two numbers from 0 to below 1, got {self.betas}")
        for name, only in (("betas", "adamw"), ("epsilon", "adamw"),
                           ("momentum", "sgd")):
            default = OptimizerConfig.__dataclass_fields__[name].default
            _check(self.name == only or getattr(self, name) == default,
                   f"{name} is for {only} only, not for {self.name}")
        for name in ("weight_decay", "epsilon", "momentum"):
            value = getattr(self, name)
            _check(value >= 0, f"{name} must not be negative, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate goes over the steps.

    Parameters
    ----------
    name : str
        After the warm-up: held, along a line, along half a cosine, or held
        and then along a line (warm-up, stable, decay).
    warmup_steps : int
        From zero to the whole learning rate.
    decay_steps : int, optional
        The last steps, of wsd only; left out: a tenth of all.
    final : float
        The share of the learning rate that is left at the end.
    """

    name: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup_steps: int = 0
    decay_steps: int | None = None
    final: float = 0.0

    def __post_init__(self) -> None:
        _check(self.warmup_steps >= 0,
               f"warmup_steps must not be negative, got {self.warmup_steps}")
        _check(self.decay_steps is None or self.name == "wsd",
               f"decay_steps is for wsd only, not for {self.name}")
        _check(0 <= self.final <= 1,
               f"final must be between 0 and 1, got {self.final}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The loop.

    Parameters
    ----------
    steps : int
        Updates in all, those before a restart among them.
    lr : float
        The learning rate that the schedule scales.
    accumulation : int
        Batches of each update; their losses are averaged.
    clip : float, optional
        The largest norm of the gradients; null: no clipping.
    dtype : str
        What products are computed in. Parameters, their gradients and the
        optimizer's state are float32; float16 scales the loss.
    seed : int
        Of the weights and of dropout.
    evaluate_every : int
        Steps from one evaluation to the next; 0: none.
    evaluate_batches : int
        Batches of an evaluation; 0: all there are.
    non_finite : str
        What follows a loss or norm that is infinite or NaN. The update is
        left out in any case; then the run saves and stops, goes on, or
        raises.
    compile : bool
        Whether blocks run through ``torch.compile``.
    """

    steps: int
    lr: float = 1e-3
    accumulation: int = 1
    clip: float | None = 1.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = 0
    evaluate_every: int = 0
    evaluate_batches: int = 0
    non_finite: Literal["stop", "skip", "raise"] = "stop"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation"):
            value = getattr(self, name)
            _check(value >= 1, f"{name} must be 1 or more, got {value}")
        for name in ("evaluate_every", "evaluate_batches", "lr"):
            value = getattr(self, name)
            _check(value >= 0, f"{name} must not be negative, got {value}")
        _check(math.isfinite(self.lr), f"lr must be finite, got {self.lr}")
        _check(self.clip is None or self.clip > 0,
               f"clip must be positive or null, got {self.clip}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """What is kept of a run, and where it goes on.

    Parameters
    ----------
    folder : str, optional
        Of the run: checkpoints, metrics, config and plan. All nodes see the
        same folder. Left out: nothing is written.
    every : int
        Steps from one checkpoint to the next; 0: only at the end.
    keep : int
        How many of the last ones stay; 0: all.
    best : bool
        Whether the one with the lowest loss in evaluation stays too.
    asynchronous : bool
        Whether training goes on while files are written.
    resume : bool
        Whether to go on from the last complete checkpoint in the folder.
    """

    folder: str | None = None
    every: int = 0
    keep: int = 3
    best: bool = False
    asynchronous: bool = True
    resume: bool = True

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            value = getattr(self, name)
            _check(value >= 0, f"{name} must not be negative, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """What is told of a run.

    Parameters
    ----------
    every : int
        Steps from one line of metrics to the next.
    progress : bool
        A bar on the first rank where there is a terminal, else a line
        now and then.
    tensorboard : bool
        Whether to write for TensorBoard too, which must be installed.
    """

    every: int = 1
    progress: bool = True
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _check(self.every >= 1, f"every must be 1 or more, got {self.every}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """Some steps under ``torch.profiler``.

    Parameters
    ----------
    start : int
        The first step that is recorded; the first has number 1.
    steps : int
        How many are; 0: none.
    folder : str
        For a Chrome trace of each rank.
    """

    start: int = 5
    steps: int = 0
    folder: str = "profile"

    def __post_init__(self) -> None:
        _check(self.start >= 1, f"start must be 1 or more, got {self.start}")
        _check(self.steps >= 0,
               f"steps must not be negative, got {self.steps}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A training run.

    Parameters
    ----------
    model : ModelConfig
        What is trained.
    data : mapping
        What ``scaletorch.data.build`` takes.
    evaluation_data : mapping, optional
        The same, for evaluations.
    plan : str
        ``auto``, recipes such as ``fsdp * megatron(sequence_parallel=True)``,
        or the path of a plan's YAML file.
    mesh : str or mapping of str to int
        ``auto``, or axes and their sizes, such as ``{dp: -1, tp: 2}``; -1
        takes the ranks that are left.
    cluster : str, optional
        A preset, the path of a YAML file, or ``local``: the profile of this
        machine; ``profile`` measures it first. Left out: as for
        `auto_parallelize(cluster=None)` ([profile](profile.md)).
    train : TrainConfig
        The loop.
    optimizer : OptimizerConfig
        How gradients become updates.
    schedule : ScheduleConfig
        How the learning rate goes over the steps.
    checkpoint : CheckpointConfig
        What is kept of a run, and where it goes on.
    metrics : MetricsConfig
        What is told of a run.
    profile : ProfileConfig
        Some steps under ``torch.profiler``.
    """

    model: ModelConfig
    data: Mapping[str, Any]
    train: TrainConfig
    evaluation_data: Mapping[str, Any] | None = None
    plan: str = "auto"
    mesh: str | Mapping[str, int] = "auto"
    cluster: str | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    metrics: MetricsConfig = MetricsConfig()
    profile: ProfileConfig = ProfileConfig()

    def __post_init__(self) -> None:
        _check(
            not isinstance(self.mesh, str) or self.mesh == "auto",
            f"mesh must be auto or axes such as {{dp: 2}}, got {self.mesh}")
        if not isinstance(self.mesh, str):
            _check_axes(self.mesh)
        _check(
            not self.train.evaluate_every or self.evaluation_data is not None,
            "evaluation_data is missing, but train.evaluate_every is "
            f"{self.train.evaluate_every}")
        _check(not self.checkpoint.best or self.train.evaluate_every > 0,
               "checkpoint.best needs evaluations: give train.evaluate_every")

    def to_yaml(self) -> str:
        """All of it as text; ``from_mapping`` of it gives the same."""
        return yaml.safe_dump(to_mapping(self), sort_keys=False)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run from a YAML file.

    Parameters
    ----------
    path : str or Path
    overrides : sequence of str
        Such as ``train.lr=3e-4``.

    Raises
    ------
    OSError
        When the file can't be read.
    ValueError
        When it is no YAML, or no run, with the path of the key.
    """
    values = read_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} must hold a mapping with model, data and "
                         f"train, got {type(values).__name__}")
    return from_mapping(Config, overridden(values, overrides))
