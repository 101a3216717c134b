"""Tiny runs on simulated ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaletorch.runtime.ranks import run_ranks
from scaletorch.trainer.config import Config
from scaletorch.trainer.loop import Ended, Trainer
from scaletorch.trainer.typed import from_mapping

__all__ = ["Rows", "TINY", "tiny", "train", "train_alone"]

Rows = list[dict[str, float]]

_TOKENS = {"kind": "random_tokens", "vocabulary_size": 32}
TINY: dict[str, Any] = {
    "model": {
        "name": "gpt2",
        "overrides": {
            "width": 16,
            "depth": 2,
            "heads": 2,
            "vocabulary_size": 32,
            "context": 8
        }
    },
    "cluster": "cpu-gloo",
    "data": _TOKENS | {
        "sequence_length": 8,
        "batch_size": 4,
        "length": 20
    },
    "evaluation_data": _TOKENS | {
        "sequence_length": 8,
        "batch_size": 4,
        "length": 8,
        "seed": 3
    },
    "train": {
        "steps": 6,
        "lr": 1e-2,
        "seed": 1
    },
    "checkpoint": {
        "asynchronous": False
    },
    "metrics": {
        "progress": False
    },
}
"""A GPT-2 of some ten thousand parameters on random tokens."""


def tiny(sections: Mapping[str, Any] | None = None, **keys: Any) -> Config:
    """A run; mappings are put on top of its sections."""
    values = dict(TINY)
    for name, value in {**(sections or {}), **keys}.items():
        old = values.get(name)
        values[name] = ({
            **old,
            **value
        } if isinstance(value, Mapping) and isinstance(old, Mapping) else
                        value)
    return from_mapping(Config, values)


def train(config: Config,
          *,
          stop_at: int | None = None,
          **data: Any) -> tuple[Ended, Rows]:
    """Run on the ranks that there are."""
    rows: Rows = []

    def note(row: Mapping[str, float]) -> None:
        rows.append(dict(row))
        if row["step"] == stop_at:
            trainer.stop.ask()

    trainer = Trainer(config, callbacks=[note], **data)
    return trainer.run(), rows


def train_alone(config: Config,
                ranks: int = 1,
                *,
                stop_at: int | None = None) -> tuple[Ended, Rows]:
    """Run on simulated ranks, which must all tell the same."""

    def work(rank: int) -> tuple[Ended, Rows]:
        return train(config, stop_at=stop_at if rank == ranks - 1 else None)

    found = run_ranks(ranks, work)
    for _, rows in found:
        assert [r.get("loss")
                for r in rows] == [r.get("loss") for r in found[0][1]], found
    return found[0]
