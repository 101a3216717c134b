"""Mesh, model and plan of a run."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from planner.ir.mesh import MeshSpec
from planner.names import nearest
from planner.recipes import Recipe
from scaletorch import models
from scaletorch.api import auto_parallelize
from scaletorch.checkpoint import load_checkpoint
from scaletorch.mesh import device_mesh, mesh_device, reshaped
from scaletorch.module import ParallelModule
from scaletorch.trainer.config import Config, ModelConfig
from scaletorch.trainer.plans import parse_plan
from scaletorch.trainer.precision import autocast

__all__ = [
    "build_mesh", "build_model", "build_module", "check_model", "fields_of"
]

_LOGGER = logging.getLogger("scaletorch")


def build_module(config: Config,
                 batch: Mapping[str, torch.Tensor]) -> ParallelModule:
    """The parallel module of a run, with its first weights.

    Parameters
    ----------
    config : Config
    batch : mapping of str to Tensor
        A global batch; only shapes and dtypes count.
    """
    plan = parse_plan(config.plan)
    mesh = build_mesh(config.mesh, plan)
    flat, _ = device_mesh(dist.get_world_size())
    torch.manual_seed(config.train.seed)
    model = build_model(config.model)
    model.train()
    if config.model.hugging_face is not None:
        _check_names(model, batch)
    example = {n: torch.empty_like(t, device="meta") for n, t in batch.items()}
    with autocast(mesh_device(flat), config.train.dtype):
        module = auto_parallelize(model,
                                  mesh,
                                  example_inputs=example,
                                  cluster=config.cluster,
                                  plan=plan,
                                  optimizer=config.optimizer.name,
                                  compile=config.train.compile)
    if module.agreement.is_first:
        _LOGGER.info("planned: %s over %s", module.plan.axes, module.plan.mesh)
    if config.model.weights is not None:
        load_checkpoint(module, config.model.weights)
    return module


def _check_names(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that only ``**kwargs`` of a model would take, which
    are for flags."""
    parameters = inspect.signature(model.forward).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    for name in batch:
        if name not in known:
            raise ValueError(
                f"data: a batch has {name!r}, but {type(model).__name__} "
                f"takes {', '.join(known)}; give data.names, such as "
                "{tokens: input_ids}, or a null to leave one out")


def build_model(config: ModelConfig) -> nn.Module:
    """The single-device model on the meta device.

    Raises
    ------
    ValueError
        For unknown names and fields, or a ``config.json`` or weights that
        are not there.
    """
    fields = check_model(config)
    with torch.device("meta"):
        if config.name is not None:
            return models.build(config.name, **fields)
        return _hugging_face(_config_file(config), config.overrides)


def check_model(config: ModelConfig) -> dict[str, Any]:
    """Find what is wrong with a model's name and fields; nothing is built.

    Returns
    -------
    dict
        Values of the fields that are overridden, of a named model.

    Raises
    ------
    ValueError
        As `build_model`.
    """
    if config.weights is not None and not Path(config.weights).exists():
        raise ValueError(f"model.weights: there is no {config.weights}; name "
                         "what scaletorch.load_checkpoint reads")
    if config.name is None:
        _config_file(config)
        return {}
    fields = fields_of(models.config(config.name), config.overrides)
    models.config(config.name, **fields)
    return fields


def build_mesh(mesh: str | Mapping[str, int],
               plan: Recipe | Path | None) -> DeviceMesh | int:
    """What ``auto_parallelize`` takes as its mesh, over all ranks.

    Parameters
    ----------
    mesh : str or mapping of str to int
        ``auto``, or sizes of axes; one may be -1.
    plan : Recipe, Path or None
        Names the axis of a mesh that is ``auto``.

    Raises
    ------
    ValueError
        When the sizes do not make up the job's ranks.
    """
    world = dist.get_world_size()
    if isinstance(mesh, str):
        if not isinstance(plan, Recipe):
            return world
        mesh = {_only_axis(plan): world}
    known = math.prod(size for size in mesh.values() if size != -1)
    sizes = {n: world // known if s == -1 else s for n, s in mesh.items()}
    if math.prod(sizes.values()) != world or list(mesh.values()).count(-1) > 1:
        raise ValueError(
            f"mesh: {dict(mesh)} does not make up {world} ranks; change "
            "mesh or start as many processes (one size may be -1)")
    flat, _ = device_mesh(world)
    return reshaped(flat, MeshSpec(tuple(sizes), tuple(sizes.values())))


def _only_axis(recipe: Recipe) -> str:
    axes = [axis for axis, _ in recipe.parts]
    if recipe.pipeline is not None:
        axes.insert(0, recipe.pipeline.axis)
    if len(axes) > 1:
        raise ValueError(f"mesh: plan {recipe.name} has the axes "
                         f"{', '.join(axes)}, whose sizes are open; give "
                         f"mesh, such as {{{axes[0]}: -1, {axes[1]}: 2}}")
    return axes[0]


def _config_file(config: ModelConfig) -> Path:
    assert config.hugging_face is not None
    path = Path(config.hugging_face)
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"model.hugging_face: there is no file {file}")
    return file


def _hugging_face(file: Path, overrides: Mapping[str, Any]) -> nn.Module:
    try:
        import transformers
    except ImportError:
        raise ValueError("model.hugging_face needs its library: pip install "
                         "transformers") from None
    config = transformers.AutoConfig.from_pretrained(file, **overrides)
    # What a model caches for generation would be an output of training.
    config.use_cache = False
    names = config.architectures or ()
    cls = getattr(transformers, names[0], None) if names else None
    if cls is None:
        return transformers.AutoModelForCausalLM.from_config(config)
    return cls(config)


def fields_of(base: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a config's fields: it has tuples where YAML has lists, and
    configs where YAML has mappings.

    Parameters
    ----------
    base : dataclass
        Whose fields they override.
    overrides : mapping of str to object
        As a YAML file gives them.

    Raises
    ------
    ValueError
        For a key that a config inside of `base` lacks.
    """
    found = {}
    for name, value in overrides.items():
        old = getattr(base, name, None)
        if isinstance(value, list):
            value = tuple(value)
        elif (isinstance(value, Mapping) and dataclasses.is_dataclass(old)
              and not isinstance(old, type)):
            known = [f.name for f in dataclasses.fields(old)]
            for key in value:
                if key not in known:
                    raise ValueError(f"model.overrides.{name} has no field "
                                     f"{key!r}: {nearest(key, known)}")
            value = dataclasses.replace(old, **fields_of(old, value))
        found[name] = value
    return found
