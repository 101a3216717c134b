"""A row of a published run, as the tests change it."""

from __future__ import annotations

from typing import Any

__all__ = ["row"]


def row(**changes: Any) -> dict[str, Any]:
    """A made-up run of a small GPT on 8 A100."""
    plain: dict[str, Any] = {
        "id": "made-up-0",
        "source": {
            "name": "made up"
        },
        "hardware": {
            "gpu": "A100-80GB",
            "count": 8,
            "gpus_per_node": 8
        },
        "model": {
            "name": "GPT",
            "layers": 24,
            "hidden": 2048,
            "heads": 16,
            "vocab": "50k",
            "seq": 1024
        },
        "dtype": "fp16",
        "global_batch": 32,
        "micro_batch": 4,
        "parallel": {
            "tp": 2,
            "pp": 2,
            "dp": 2,
            "sharding": "ddp"
        },
        "recompute": "full",
        "schedule": "1f1b",
        "measured": {
            "iteration_time_ms": 1500.0
        }
    }
    return {**plain, **changes}
