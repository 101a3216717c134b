"""Numbers of a run: how fast, how full, how far."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from planner.cost.calls import known_calls
from planner.ir.program import Program
from scaletorch.cluster import cluster_of
from scaletorch.module import ParallelModule

__all__ = [
    "Row", "Speed", "Writer", "check_tensorboard", "flops_of", "json_lines",
    "lines", "memory_bytes", "peak_flops_per_s", "progress", "tensorboard",
    "tokens_of"
]

Row = dict[str, float]
"""Metrics of a step by name."""

Writer = Callable[[Mapping[str, float]], None]

_LOGGER = logging.getLogger("scaletorch")
_LOG_EVERY_S = 10.0


class Speed:
    """Tokens and the share of the peak, from one line to the next.

    Parameters
    ----------
    flops_per_batch : float
        Forward and backward, as the model is written: recomputation is not
        counted (Chowdhery et al., PaLM, 2022, appendix B).
    peak_flops_per_s : float, optional
        Of all devices together.
    clock : callable
        Seconds.
    """

    def __init__(self,
                 flops_per_batch: float,
                 peak_flops_per_s: float | None,
                 clock: Callable[[], float] = time.perf_counter) -> None:
        self._flops = flops_per_batch
        self._peak = peak_flops_per_s
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Count from now on; what came before was no training."""
        self._since = self._clock()
        self._tokens = self._batches = 0

    def batch(self, tokens: int) -> None:
        """A batch went through."""
        self._tokens += tokens
        self._batches += 1

    def row(self) -> Row:
        """The speed since the start, and start again."""
        seconds = max(self._clock() - self._since, 1e-9)
        found = {"tokens_per_s": self._tokens / seconds}
        if self._batches:
            found["batch_s"] = seconds / self._batches
        if self._peak:
            found["mfu"] = self._flops * self._batches / seconds / self._peak
        self.restart()
        return found


def tokens_of(batch: Mapping[str, torch.Tensor]) -> int:
    """How many tokens a batch has; without tokens, how many samples."""
    for name in ("tokens", "input_ids"):
        if name in batch:
            return batch[name].numel()
    return next(iter(batch.values())).shape[0]


def flops_of(program: Program) -> float:
    """Operations of a forward and a backward over the whole batch."""
    per_class = {
        name: sum(c.work.forward_flops + c.work.backward_flops for c in calls)
        for name, calls in known_calls(program).items()
    }
    return float(sum(per_class[b.block_class] for b in program.blocks))


def peak_flops_per_s(module: ParallelModule, cluster: str | None,
                     dtype: str) -> float | None:
    """Of all devices of the mesh together.

    Parameters
    ----------
    module : ParallelModule
    cluster : str, optional
        Preset or file; a CPU is known only where this is given.
    dtype : str
        A name in ``torch``.

    Returns
    -------
    float or None
        None where it is not known.
    """
    if cluster is None and module.device.type == "cpu":
        return None
    size = module.mesh.size()
    try:
        spec = cluster_of(cluster, size, module.device.type)
    except ValueError:
        return None
    return size * spec.weakest().peak(getattr(torch, dtype))


def memory_bytes(device: torch.device) -> int:
    """The most that this process held: on the device, else at all."""
    if device.type == "cpu":
        # In KiB on Linux.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    module = torch.get_device_module(device.type)
    return int(module.max_memory_allocated())


def json_lines(path: Path) -> Writer:
    """Append each row to a file, as a line of JSON.

    Raises
    ------
    OSError
        By what it returns, naming the file that can't be written.
    """

    def write(row: Mapping[str, float]) -> None:
        # JSON knows neither NaN nor infinity.
        line = json.dumps({
            n: v if math.isfinite(v) else None
            for n, v in row.items()
        })
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise OSError(
                f"{path} could not be written: {error}; make room or name "
                "another checkpoint.folder. The same command goes on from "
                "the last complete checkpoint") from error

    return write


def progress(done: int, steps: int) -> tuple[Writer, Callable[[], None]]:
    """A bar where there is a terminal, else lines; and what ends it."""
    bar: tqdm[Any] = tqdm(total=steps, initial=done, disable=None, unit="step")
    if bar.disable:
        return lines(steps), bar.close

    def write(row: Mapping[str, float]) -> None:
        if "loss" in row:
            bar.update(int(row["step"]) - bar.n)
            bar.set_postfix(loss=f"{row['loss']:.4f}",
                            tokens_per_s=f"{row['tokens_per_s']:,.0f}")

    return write, bar.close


def lines(steps: int, clock: Callable[[], float] = time.monotonic) -> Writer:
    """Log the first and the last step, evaluations, and a step now and then."""
    told_s = -math.inf

    def write(row: Mapping[str, float]) -> None:
        nonlocal told_s
        step = int(row["step"])
        if "evaluation_loss" in row:
            _LOGGER.info("step %d of %d: evaluation loss %.4f", step, steps,
                         row["evaluation_loss"])
        elif step == steps or clock() - told_s >= _LOG_EVERY_S:
            told_s = clock()
            _LOGGER.info("step %d of %d: loss %.4f, %.3g s a batch", step,
                         steps, row["loss"], row["batch_s"])

    return write


def check_tensorboard() -> None:
    """Find out whether there is a TensorBoard to write for.

    Raises
    ------
    ValueError
        When it is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "metrics.tensorboard is true, but TensorBoard is not installed: "
            "pip install tensorboard, or leave it out (metrics.jsonl has the "
            "same numbers)")


def tensorboard(folder: Path) -> Writer:
    """Write for TensorBoard.

    Raises
    ------
    ValueError
        When it is not installed.
    """
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter(str(folder))

    def write(row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, int(row["step"]))
        writer.flush()

    return write
