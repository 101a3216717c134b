"""When attention is offered a ring, and why it is not."""

from __future__ import annotations

import unittest
from typing import Any

import torch

from planner.rules.numeric import call_of
from planner.rules.registry import options
from planner.rules.ring import RING_LOWERINGS, ring_refusal

_SDPA = torch.ops.aten.scaled_dot_product_attention.default


def offered(size: int, *args: Any) -> list[str | None]:
    call, _ = call_of(_SDPA, args, {})
    return [
        o.lowering for o in options(call, size) if o.lowering in RING_LOWERINGS
    ]


class TestRing(unittest.TestCase):

    def test_by_size(self) -> None:
        x = torch.randn(2, 2, 12, 4)
        causal = (x, x, x, None, 0.0, True)
        self.assertEqual(offered(3, x, x, x), ["ring_attention"])
        self.assertEqual(offered(3, *causal),
                         ["ring_attention_causal", "ring_attention_zigzag"])
        self.assertEqual(offered(4, *causal), ["ring_attention_causal"])
        self.assertEqual(offered(5, *causal), [])

    def test_reasons(self) -> None:
        x, short = torch.randn(2, 2, 12, 4), torch.randn(2, 2, 6, 4)
        for args, text in (((x, x, x, None, 0.5), "drops out 0.5"),
                           ((x, short, short, None, 0.0, True),
                            "line up"), ((x[0], x[0], x[0]), "four dims"),
                           ((x, x[:1], x[:1]), "batches are broadcast")):
            call, _ = call_of(_SDPA, args, {})
            self.assertIn(text, str(ring_refusal(call)))
            self.assertEqual(offered(2, *args), [])


if __name__ == "__main__":
    unittest.main()
