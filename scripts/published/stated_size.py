"""Models whose sizes are not those of the run that a row describes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.cost.analytic.transformer import Transformer

__all__ = ["as_stated"]

_DIFFERENT = 0.005
_ALIKE = 0.01


def as_stated(model: Transformer, row: Mapping[str, Any],
              implied: float | None) -> Transformer:
    """The model, wider or narrower where two statements contradict its sizes.

    Tables of many runs give some size only once. The name of a model says
    how many parameters it has ("GPT-195B"), a rate of flops and a time how
    much work a step is. If both differ from the model's sizes, and by the
    same, the sizes are those of another row.

    Parameters
    ----------
    model : Transformer
    row : mapping
    implied : float or None
        Flops of a step by the row's rate and time, for each of the model's.
    """
    named = re.fullmatch(r"GPT-?(\d+(?:\.\d+)?)B",
                         str(row["model"].get("name")))
    # A convention that counts parameters only repeats the name.
    counted = re.search(r"\d\*N\*", str(row.get("flops_convention")))
    if named is None or implied is None or counted:
        return model
    share = float(named[1]) * 1e9 / float(model.parameters)
    if abs(share - 1) < _DIFFERENT or abs(implied / share - 1) > _ALIKE:
        return model
    wider = share**0.5
    return replace(model,
                   hidden=model.hidden * wider,
                   ffn=model.ffn * wider,
                   qk_dim=model.qk_dim * wider,
                   v_dim=model.v_dim * wider,
                   qkv_parameters=model.qkv_parameters * share)
