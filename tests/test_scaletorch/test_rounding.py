"""How much of a result is rounding."""

from __future__ import annotations

import unittest

import torch

from scaletorch.compare import report
from scaletorch.rounding import rounding

_EPS = torch.finfo(torch.float32).eps


def cancelled() -> dict[str, torch.Tensor]:
    """A sum of 300 terms of 1/3 that is zero, and a plain one of theirs."""
    terms = torch.ones(300) / 3
    signs = torch.tensor([1.0, -1.0]).repeat(150)
    return {
        "gradient of zero": (terms * signs).sum(),
        "gradient of sum": terms.sum()
    }


class TestRounding(unittest.TestCase):

    def test_as_large_as_what_was_summed(self) -> None:
        found = rounding(cancelled, cancelled())
        self.assertGreater(found["gradient of zero"], _EPS)
        self.assertLess(found["gradient of zero"], 100 * _EPS)
        self.assertLess(found["gradient of sum"], 1000 * _EPS)

    def test_exact_values_stay(self) -> None:

        def masked() -> dict[str, torch.Tensor]:
            mask = torch.ones(4) * 1.0
            return {"output 0": (mask == 1).float() + mask}

        self.assertEqual(rounding(masked, masked()), {"output 0": 0.0})

    def test_only_what_cancels_is_allowed_more(self) -> None:
        expected = cancelled()
        allowed = rounding(cancelled, expected)
        other = dict(expected)
        other["gradient of zero"] = expected["gradient of zero"] + 3 * _EPS
        self.assertTrue(report(expected, other, rounding=allowed).equal)
        for name, wrong in (("zero", expected["gradient of zero"] + 0.01),
                            ("sum", expected["gradient of sum"] * 1.001)):
            other = {**expected, f"gradient of {name}": wrong}
            found = report(expected, other, rounding=allowed)
            self.assertFalse(found.equal)
            self.assertEqual(found.first_difference, f"gradient of {name}")

    def test_integers(self) -> None:

        def counted() -> dict[str, torch.Tensor]:
            return {"output 0": torch.arange(3)}

        allowed = rounding(counted, counted())
        self.assertTrue(report(counted(), counted(), rounding=allowed).equal)
        self.assertFalse(
            report(counted(), {
                "output 0": torch.arange(1, 4)
            },
                   rounding=allowed).equal)


if __name__ == "__main__":
    unittest.main()
