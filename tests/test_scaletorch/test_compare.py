"""When two programs count as equal."""

from __future__ import annotations

import dataclasses
import unittest

import torch
from transformers.utils import ModelOutput

from scaletorch.compare import observed, report


def gradients(*values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"gradient of {i}": x for i, x in enumerate(values)}


@dataclasses.dataclass
class Filled(ModelOutput):
    """Has its names in this order, whenever they are set."""

    first: torch.Tensor | None = None
    second: torch.Tensor | None = None


class TestObserved(unittest.TestCase):

    def test_an_output_that_is_filled_in_another_order(self) -> None:
        one, two = torch.zeros(2), torch.ones(3)
        late = Filled(second=two)
        late["first"] = one
        self.assertEqual(list(late), ["second", "first"])
        for output in (late, Filled(first=one, second=two)):
            found = observed(torch.nn.Identity(), (output, one))
            self.assertEqual([tuple(x.shape) for x in found.values()], [(2, ),
                                                                        (3, ),
                                                                        (2, )])


class TestReport(unittest.TestCase):

    def test_a_gradient_that_is_zero_but_for_rounding(self) -> None:
        expected = gradients(torch.ones(3), torch.full((2, ), 1e-8))
        found = gradients(torch.ones(3), torch.full((2, ), -3e-8))
        self.assertTrue(report(expected, found).equal)

    def test_a_small_gradient_that_differs(self) -> None:
        expected = gradients(torch.ones(3), torch.full((2, ), 1e-3))
        found = gradients(torch.ones(3), torch.full((2, ), 1.01e-3))
        result = report(expected, found)
        self.assertFalse(result.equal)
        self.assertEqual(result.first_difference, "gradient of 1")

    def test_outputs_have_no_such_allowance(self) -> None:
        expected = {"output 0": torch.full((2, ), 1e-8)}
        found = {"output 0": torch.full((2, ), -3e-8)}
        self.assertFalse(
            report({
                **expected,
                **gradients(torch.ones(3))
            }, {
                **found,
                **gradients(torch.ones(3))
            }).equal)

    def test_complex_numbers(self) -> None:
        x = torch.randn(4, dtype=torch.complex128)
        self.assertTrue(report(gradients(x), gradients(x * (1 + 1e-9))).equal)
        self.assertFalse(report(gradients(x), gradients(x.conj())).equal)

    def test_what_was_computed_in_half_precision(self) -> None:
        expected, found = gradients(torch.ones(2)), gradients(
            torch.full((2, ), 1.01))
        self.assertFalse(report(expected, found).equal)
        self.assertTrue(
            report(expected, found, computed_in=torch.bfloat16).equal)


if __name__ == "__main__":
    unittest.main()
