"""What each real process runs; imported by the processes."""

from __future__ import annotations

import copy
import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from scaletorch import parallel
from tests.model_zoo import MODELS
from tests.test_scaletorch.small import Mlp, batch, seeded, whole

PLANS: dict[str, Any] = {
    "auto":
    None,
    "ddp":
    parallel.ddp(),
    "expert":
    parallel.expert(),
    "fsdp":
    parallel.fsdp(),
    "ring":
    parallel.ring(),
    "fsdp * megatron-sp":
    (parallel.fsdp() * parallel.megatron(sequence_parallel=True)),
}

State = dict[str, torch.Tensor]


def zoo(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A model of the zoo in double, with its batch."""
    model, inputs, _ = MODELS[name]()
    return model.double(), {
        k:
        v.double()
        if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in inputs.items()
    }


def trained(model: nn.Module, inputs: dict[str, torch.Tensor]) -> State:
    """The state after three steps of AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        model(**inputs).loss.backward()
        scaletorch.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {n: whole(t) for n, t in model.state_dict().items()}


def worst_difference(rank: int, name: str, plan: str,
                     axes: dict[str, int]) -> tuple[str, float]:
    """The state's entry that differs most from training alone."""
    del rank
    torch.set_num_threads(1)
    model, inputs = zoo(name)
    expected = trained(copy.deepcopy(model), inputs)
    mesh = init_device_mesh("cpu",
                            tuple(axes.values()),
                            mesh_dim_names=tuple(axes))
    module = scaletorch.auto_parallelize(model,
                                         mesh,
                                         example_inputs=inputs,
                                         plan=PLANS[plan],
                                         cluster="cpu-gloo")
    found = trained(module, inputs)
    assert list(found) == list(expected)
    errors = {
        n: float((found[n] - t).abs().max())
        for n, t in expected.items()
    }
    return max(errors.items(), key=lambda item: item[1])


def _spread(plan: Any, **axes: int) -> scaletorch.ParallelModule:
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu",
                            tuple(axes.values()),
                            mesh_dim_names=tuple(axes))
    return scaletorch.auto_parallelize(seeded(Mlp),
                                       mesh,
                                       example_inputs=batch(),
                                       plan=plan,
                                       cluster="cpu-gloo")


def save(rank: int, folder: str) -> State:
    """Change a module and save it under a plan of two axes."""
    del rank
    module = _spread(parallel.fsdp() * parallel.megatron(), dp=2, tp=2)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.add_(number + 1.0)
    dcp.save(module.state_dict(), checkpoint_id=folder)
    return {n: whole(p) for n, p in module.named_parameters()}


def load(rank: int, folder: str) -> State:
    """Load it under another plan, on fewer ranks."""
    del rank
    module = _spread(parallel.fsdp(), dp=2)
    scaletorch.load_checkpoint(module, folder)
    return {n: whole(p) for n, p in module.named_parameters()}


def die_in_the_middle(rank: int) -> None:
    """Rank 1 is killed between two steps."""
    module = _spread(parallel.fsdp(), dp=2)
    module(*batch())["loss"].backward()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(3):
        module(*batch())["loss"].backward()


def fail_alone(rank: int) -> dict[str, str]:
    """One rank meets an error of its own; the others must hear of it."""
    x, y = batch()
    alone = {"inputs": (x, ), "model": (x[:, :5], y)}
    texts = {
        what:
        _error(functools.partial(_with_inputs, inputs if rank else (x, y)))
        for what, inputs in alone.items()
    }
    module = _spread(parallel.fsdp(), dp=2)
    calls: dict[str, Callable[[], Any]] = {
        "shape": lambda: module(*batch(8 if rank else 4)),
        "arguments": lambda: module(*batch()[:1 + rank]),
        "mode": lambda: module.train(rank == 0)(x, y),
        "grad mode": lambda: _without_grad(rank, module.train()),
    }
    texts |= {what: _error(call) for what, call in calls.items()}
    return texts | {"after all": _error(lambda: module.train()(x, y))}


def _error(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _with_inputs(inputs: Any) -> None:
    mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
    scaletorch.auto_parallelize(seeded(Mlp),
                                mesh,
                                example_inputs=inputs,
                                plan=parallel.fsdp(),
                                cluster="cpu-gloo")


def _without_grad(rank: int, module: nn.Module) -> None:
    with torch.set_grad_enabled(rank == 0):
        module(*batch())


def partial_mesh(rank: int) -> str:
    """Ranks 1 and 2 of three work; rank 0 is told that it is outside."""
    mesh = torch.distributed.device_mesh.DeviceMesh("cpu", [1, 2],
                                                    mesh_dim_names=("dp", ))
    try:
        module = scaletorch.auto_parallelize(seeded(Mlp),
                                             mesh,
                                             example_inputs=batch(),
                                             plan=parallel.fsdp(),
                                             cluster="cpu-gloo")
    except ValueError as error:
        assert rank == 0
        dist.barrier()
        return str(error)
    loss = module(*batch())["loss"]
    loss.backward()
    expected = seeded(Mlp)(*batch())["loss"]
    dist.barrier()
    return f"{abs(float(loss.detach() - expected.detach())) < 1e-12}"


def draws(rank: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two calls with dropout under a seed."""
    del rank
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
    torch.manual_seed(0)
    model = Mlp(dropout=0.5).double()
    module = scaletorch.auto_parallelize(model,
                                         mesh,
                                         example_inputs=batch(),
                                         plan=parallel.fsdp(),
                                         cluster="cpu-gloo")
    torch.manual_seed(seed)
    first, second = (module(*batch())["found"].detach() for _ in range(2))
    return first, second


def main(folder: str) -> None:
    """For ``torchrun``: the group comes from its environment."""
    dist.init_process_group("gloo")
    name, error = worst_difference(dist.get_rank(), "gpt2", "fsdp",
                                   {"dp": dist.get_world_size()})
    path = Path(folder) / f"rank{dist.get_rank()}"
    path.write_text(f"{name} {error}", encoding="utf-8")
    dist.destroy_process_group()
