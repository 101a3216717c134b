"""What stands before the first layer and after the last."""

from __future__ import annotations

from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.operators import (ELEMENT_BYTES, Operator,
                                             elementwise)
from planner.cost.analytic.transformer import Transformer

__all__ = ["embedding", "head"]


def embedding(model: Transformer, plan: Configurations) -> list[Operator]:
    """Token embedding on the first stage."""
    elements = plan.tokens(model.seq) * model.hidden
    return [elementwise("embedding", elements, 4, 4)]


def head(model: Transformer, plan: Configurations) -> list[Operator]:
    """Final norm, logits and cross entropy on the last stage."""
    tokens = model.target_tokens(plan.tokens(model.seq))
    logits = tokens * model.vocab / plan.tp
    weight = model.embedding_parameters / plan.tp
    product = Operator(name="logits",
                       kind="matmul",
                       flops=2 * tokens * weight,
                       size_bytes=ELEMENT_BYTES *
                       (weight + logits + tokens * model.hidden),
                       summed=model.hidden,
                       backward_summed=tokens + model.vocab / plan.tp,
                       weighted=True)
    # In 32 bits: cast, maximum, difference, exponential, sum, quotient.
    return [
        elementwise("final norm", tokens * model.hidden, 4, 2), product,
        elementwise("cross entropy", tokens * model.vocab / plan.logits_tp, 10,
                    8)
    ]
