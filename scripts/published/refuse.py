"""What the model has no words for, said of a row before it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.transformer import Transformer
from scripts.published.case import Unreadable

__all__ = ["check_stages", "refuse"]

_WIDE = ("fp32", "float32", "tf32", "fp64", "float64")
_WHOLE = ("int4", "int8", "uint8")
_OTHERS = re.compile("mamba|jamba|zamba|rwkv|hyena|retnet|"
                     "nemotron[ _-]?[3h](?![a-z0-9])")
"""Names of models with layers of state spaces."""
_ENDS = 2
"""Embedding and loss: stages that need no layer."""


def refuse(row: Mapping[str, Any]) -> None:
    """Raise for a row that would be priced as something else.

    Parameters
    ----------
    row : mapping
        Tidy.

    Raises
    ------
    Unreadable
    """
    dtype = str(row.get("dtype")).strip().lower()
    if dtype in (*_WIDE, *_WHOLE):
        raise Unreadable(f"products in {dtype} are not modelled")
    name = str(row["model"].get("name"))
    if _OTHERS.search(name.lower()):
        raise Unreadable(f"{name}: state space layers are not modelled")


def check_stages(model: Transformer, plan: Configurations) -> None:
    """Raise where a pipeline has more stages than there is to put in them.

    Raises
    ------
    Unreadable
    """
    stages = int(plan.pp * plan.chunks)
    if stages > model.layers + _ENDS:
        raise Unreadable(f"{int(model.layers)} layers do not make {stages} "
                         "stages")
