"""The training loop: forward, backward, clip, step."""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scaletorch import data
from scaletorch.grad_norm import clip_grad_norm_
from scaletorch.trainer.batches import (Batch, Batches, check_batch, endless,
                                        example_of, loss_of, own_part)
from scaletorch.trainer.buffers import WrittenBuffers
from scaletorch.trainer.build import build_module
from scaletorch.trainer.checkpoints import Best, Checkpoints
from scaletorch.trainer.config import Config
from scaletorch.trainer.evaluation import evaluate
from scaletorch.trainer.metrics import (Row, Speed, Writer, flops_of,
                                        memory_bytes, peak_flops_per_s,
                                        tokens_of)
from scaletorch.trainer.optimizers import build_optimizer, set_learning_rate
from scaletorch.trainer.precision import LossScale, autocast
from scaletorch.trainer.profiling import Window
from scaletorch.trainer.report import Report
from scaletorch.trainer.schedules import schedule
from scaletorch.trainer.state import (fill_optimizer, random_state,
                                      restore_random_state, tensors_of)
from scaletorch.trainer.stopping import Stop
from scaletorch.trainer.unused import unused

__all__ = ["Ended", "Trainer", "Update"]

_LOGGER = logging.getLogger("scaletorch")


class Ended(enum.Enum):
    """Why a run ended; the values are the command's exit codes.

    130 and 143 are what shells give for SIGINT and SIGTERM.
    """

    FINISHED = 0
    NON_FINITE = 3
    INTERRUPTED = 130
    STOPPED = 143


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one step came to."""

    loss: float
    norm: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Trainer:
    """A run on the ranks of the default process group.

    Parameters
    ----------
    config : Config
        The same on every rank.
    batches, evaluation : Batches, optional
        Instead of what ``scaletorch.data.build`` makes of the config.
    callbacks : sequence of callable
        Each gets every row of metrics, on every rank.

    Attributes
    ----------
    step : int
        Updates done, those of earlier processes among them.
    module : ParallelModule
    optimizer : Optimizer
    stop : Stop
        ``stop.ask()`` ends the run after the step, as SIGTERM does.
    """

    def __init__(
        self,
        config: Config,
        *,
        batches: Batches | None = None,
        evaluation: Batches | None = None,
        callbacks: Sequence[Writer] = ()
    ) -> None:
        self.config = config
        self._share = schedule(config.schedule, config.train.steps)
        self._batches = batches or data.build(config.data)
        self._evaluation = evaluation
        if evaluation is None and config.evaluation_data is not None:
            self._evaluation = data.build(config.evaluation_data,
                                          name="evaluation_data")
        example = example_of(self._batches)
        self.module = build_module(config, example)
        if self.module.agreement.is_first:
            for text in unused(config):
                _LOGGER.warning("%s", text)
        self._feed = own_part(self._batches, self.module)
        self._tokens = tokens_of(example) if self._feed else None
        self.optimizer = build_optimizer(self.module, config.optimizer,
                                         config.train.lr)
        self.stop = Stop(self.module.agreement)
        self.step = self._skipped = 0
        self._scale = LossScale(config.train.dtype == "float16")
        self._saved: int | None = None
        self._best: Best | None = None
        self._checkpoints = self._resumed()
        self._buffers = WrittenBuffers(self.module)
        self._extras = self._position()
        with self.module.agreement.together("opening the files of a run"):
            self._report = Report(config, self.module, self.step, callbacks)
        self._speed = Speed(
            flops_of(self.module.program),
            peak_flops_per_s(self.module, config.cluster, config.train.dtype))

    def run(self) -> Ended:
        """Train until the last step, a signal, or a loss that stops it.

        A run with a folder has saved when this returns.

        Raises
        ------
        FloatingPointError
            For a loss or norm that is not finite, where the config says
            so.
        """
        window = Window(self.config.profile)
        try:
            # Launchers may send SIGTERM twice, so saving is covered as well.
            with self.stop.on_signal():
                ended = self._steps(window)
                self.save()
                if self._checkpoints is not None:
                    self._checkpoints.finish()
        finally:
            window.close()
            self._report.close()
        return ended

    def save(self, best: Best | None = None) -> None:
        """Write a checkpoint of the last step that was done, once."""
        if self._checkpoints is not None and self._saved != self.step:
            self._checkpoints.save(self.step,
                                   tensors_of(self.module, self.optimizer),
                                   self._extras,
                                   best=best)
            self._saved = self.step

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.config.train.lr * self._share(self.step)

    def _steps(self, window: Window) -> Ended:
        batches = endless(self._feed or self._batches)
        self._speed.restart()
        while self.step < self.config.train.steps:
            rate = self.learning_rate
            window.before(self.step + 1)
            update = self._update(batches)
            window.after(self.step + 1)
            if not self._accepted(update):
                return Ended.NON_FINITE
            self.step += 1
            self._extras = self._position()
            self._tell(update, rate)
            self._evaluate()
            if self._is_due(self.config.checkpoint.every):
                self.save()
            if self._checkpoints is not None:
                self._checkpoints.poll()
            if number := self.stop.agreed():
                return Ended(128 + number)
        return Ended.FINISHED

    def _update(self, batches: Iterator[Batch]) -> Update:
        """One step of the optimizer; none where it is not finite."""
        train, total = self.config.train, 0.0
        inputs = "local" if self._feed else "global"
        for _ in range(train.accumulation):
            batch = next(batches)
            loss = self._loss(batch, inputs) / train.accumulation
            (loss * self._scale.value).backward()
            total += loss.item()
            self._speed.batch(self._tokens or tokens_of(batch))
        parameters = list(self.module.parameters())
        self._scale.unscale(parameters)
        norm = clip_grad_norm_(parameters, train.clip or math.inf)
        update = Update(loss=total, norm=norm.item())
        if update.is_finite:
            set_learning_rate(self.optimizer, self.learning_rate)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return update

    def _loss(self, batch: Batch, inputs: str = "global") -> torch.Tensor:
        check_batch(batch, self.module)
        with autocast(self.module.device, self.config.train.dtype):
            # Nobody looks at the logits.
            outputs = "sharded" if self.module.plan.pipeline is None else "loss"
            return loss_of(self.module(**batch, inputs=inputs,
                                       outputs=outputs))

    def _accepted(self, update: Update) -> bool:
        """Whether the run goes on after an update, or what was one."""
        self._scale.update(update.is_finite)
        if update.is_finite:
            self._buffers.keep()
            return True
        self._buffers.take_back()
        self._skipped += 1
        if math.isfinite(update.loss) and self._scale.absorbed:
            return True
        text = (f"step {self.step + 1}: the loss is {update.loss} and the "
                f"gradients' norm {update.norm}; the update is left out. Try "
                "a lower train.lr, a warm-up, or train.dtype=bfloat16")
        policy = self.config.train.non_finite
        if policy == "raise":
            raise FloatingPointError(text)
        if self.module.agreement.is_first:
            _LOGGER.warning("%s", text)
        return policy == "skip"

    def _tell(self, update: Update, rate: float) -> None:
        every = self.config.metrics.every
        if not self._is_due(every) and self.step < self.config.train.steps:
            return
        row: Row = {
            "step": self.step,
            "loss": update.loss,
            "grad_norm": update.norm,
            "lr": rate,
            "skipped": self._skipped,
            "memory_bytes": memory_bytes(self.module.device)
        }
        if self._scale.enabled:
            row["loss_scale"] = self._scale.value
        self._report.write(row | self._speed.row())

    def _evaluate(self) -> None:
        """Where it is due; the best so far is kept."""
        if not self._is_due(self.config.train.evaluate_every):
            return
        assert self._evaluation is not None
        loss = evaluate(self.module, self._evaluation, self._loss,
                        self.config.train.evaluate_batches)
        self._report.write({"step": self.step, "evaluation_loss": loss})
        if self._best is None or loss < self._best.loss:
            self._best = Best(step=self.step, loss=loss)
            if self.config.checkpoint.best:
                self.save(self._best)
        self._speed.restart()

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _position(self) -> dict[str, Any]:
        """What a checkpoint of the present step holds beside tensors."""
        return {
            "step": self.step,
            "skipped": self._skipped,
            "data": self._batches.state_dict(),
            "random": random_state(self.module.device),
            "scale": self._scale.state(),
            "plan": self.module.plan.to_yaml()
        }

    def _resumed(self) -> Checkpoints | None:
        """The run's folder, and this run where its last checkpoint is."""
        config = self.config.checkpoint
        if config.folder is None:
            return None
        checkpoints = Checkpoints(Path(config.folder),
                                  self.module.agreement,
                                  keep=config.keep,
                                  asynchronous=config.asynchronous)
        latest = checkpoints.latest()
        if latest is None:
            return checkpoints
        if not config.resume:
            raise ValueError(
                f"checkpoint.resume is false, but {config.folder} holds a run "
                f"of {latest} steps; give another checkpoint.folder")
        fill_optimizer(self.optimizer)
        extras = checkpoints.load(latest,
                                  tensors_of(self.module, self.optimizer))
        self.step = self._saved = extras["step"]
        self._skipped = extras["skipped"]
        self._best = self.module.agreement.first(checkpoints.best)
        self._batches.load_state_dict(extras["data"])
        self._scale.restore(extras["scale"])
        restore_random_state(extras["random"], self.module.device)
        if self.module.agreement.is_first:
            _LOGGER.info("going on after step %d of %s", self.step,
                         config.folder)
        return checkpoints
