"""What real ranks of a pipeline run when one of them fails; imported by the
processes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from scaletorch import parallel
from scaletorch.runtime.pipeline.stage import StageExecutor
from scaletorch.runtime.reduction import Reducer

__all__ = [
    "PLANS", "fail_between_steps", "signal_in_collective",
    "signal_in_mid_schedule", "timeouts_s"
]

PLANS: dict[str, Any] = {
    "a collective of the model": parallel.megatron(),
    "gathering parameters": parallel.zero1(),
    "reducing gradients": parallel.ddp(),
}
"""By what the rank dies before, in a pipeline of two with this beside."""


class _Layers(nn.Module):
    """A layer for each rank, and a loss."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x.square().mean()


def _spread() -> tuple[scaletorch.ParallelModule, torch.Tensor]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ranks = dist.get_world_size()
    model, x = _Layers(ranks), torch.randn(8, 8)
    mesh = init_device_mesh("cpu", (ranks, ), mesh_dim_names=("pp", ))
    return scaletorch.auto_parallelize(model,
                                       mesh,
                                       example_inputs=(x, ),
                                       plan=parallel.pipeline(microbatches=4),
                                       cluster="cpu-gloo"), x


def timeouts_s(rank: int) -> list[float]:
    """Of the groups of a mesh with stages and data parallelism."""
    del rank
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    model, x = _Layers(2), torch.ones(8, 8)
    scaletorch.auto_parallelize(model,
                                mesh,
                                example_inputs=(x, ),
                                plan=parallel.pipeline(microbatches=2) *
                                parallel.ddp(),
                                cluster="cpu-gloo")
    device = torch.device("cpu")
    return [
        mesh.get_group(axis)._get_backend(
            device).options._timeout.total_seconds() for axis in ("pp", "dp")
    ]


def signal_in_mid_schedule(rank: int, lost: int, number: int) -> None:
    """Rank `lost` sends itself a signal in the second step's backward."""
    module, x = _spread()
    module(x).backward()
    store = dist.group.WORLD.get_group_store()
    store.set(f"pid{rank}", str(os.getpid()))
    dist.barrier()
    if rank == lost:
        _signal_in_backward(signal.Signals(number))
    with _released(rank, lost, store):
        module(x).backward()


def _signal_in_backward(which: signal.Signals) -> None:
    original, calls = StageExecutor.backward_part, iter(range(100))

    def backward_part(self: StageExecutor, *args: Any) -> Any:
        if next(calls) == 1:
            os.kill(os.getpid(), which)
        return original(self, *args)

    StageExecutor.backward_part = backward_part  # type: ignore


@contextlib.contextmanager
def _released(rank: int, lost: int, store: dist.Store) -> Iterator[None]:
    """A stopped process is ended once all the others have their error."""
    try:
        yield
    except RuntimeError:
        store.set(f"told{rank}", "")
        others = [r for r in range(dist.get_world_size()) if r != lost]
        for other in others:
            while not store.check([f"told{other}"]):
                time.sleep(0.05)
        if rank == others[0]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(store.get(f"pid{lost}")), signal.SIGKILL)
        raise


def signal_in_collective(rank: int, what: str, axis: str, number: int,
                         compile: bool) -> None:
    """Rank 3 of two stages of two ranks sends itself a signal when it would
    start its next collective over the stage's axis."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x = _Layers(2), torch.randn(8, 8)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", axis))
    # Each stage has parameters.
    stages = parallel.pipeline(microbatches=2,
                               cuts=("glue.0:layers.1.linear", ))
    plan = stages * PLANS[what]
    module = scaletorch.auto_parallelize(model,
                                         mesh,
                                         example_inputs=(x, ),
                                         plan=plan,
                                         compile=compile,
                                         cluster="cpu-gloo")
    module(x).backward()
    store = dist.group.WORLD.get_group_store()
    store.set(f"pid{rank}", str(os.getpid()))
    dist.barrier()
    if rank == 3:
        _signal_in_start(what, signal.Signals(number))
    with _released(rank, 3, store):
        module(x).backward()


_STARTS: dict[str, tuple[Any, str]] = {
    "a collective of the model": (StageExecutor, "forward_part"),
    "gathering parameters": (StageExecutor, "begin"),
    "reducing gradients": (Reducer, "send"),
}


def _signal_in_start(what: str, which: signal.Signals) -> None:
    owner, name = _STARTS[what]

    def run(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), which)

    setattr(owner, name, run)


def fail_between_steps(rank: int, lost: int) -> None:
    """Rank `lost` raises an exception in its own loop."""
    module, x = _spread()
    for step in range(3):
        module(x).backward()
        if rank == lost and step == 1:
            raise ValueError("the loop's own error")
