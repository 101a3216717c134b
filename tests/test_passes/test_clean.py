"""Recorded graphs are made tidy."""

from __future__ import annotations

import unittest

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from passes.clean import clean
from planner.ir.errors import CaptureError
from tests.golden import check_golden


class TestConstants(unittest.TestCase):

    def test_a_number_becomes_a_call(self) -> None:

        def masked(x: torch.Tensor) -> torch.Tensor:
            return x.clone().masked_fill_(x > 0, torch.tensor(-2.0))

        with FakeTensorMode(), torch.device("cpu"):
            graph = make_fx(masked)(torch.ones(3)).graph
            tidy = clean(graph, ["x"], 0)
        check_golden(
            self, str(tidy), """
            graph():
                %x : [num_users=2] = placeholder[target=x]
                %clone : [num_users=1] = call_function[target=torch.ops.aten.clone.default](args = (%x,), kwargs = {})
                %gt : [num_users=1] = call_function[target=torch.ops.aten.gt.Scalar](args = (%x, 0), kwargs = {})
                %full : [num_users=1] = call_function[target=torch.ops.aten.full.default](args = ([], -2.0), kwargs = {dtype: torch.float32, device: cpu})
                %clone_1 : [num_users=1] = call_function[target=torch.ops.aten.clone.default](args = (%full,), kwargs = {})
                %masked_fill : [num_users=1] = call_function[target=torch.ops.aten.masked_fill.Tensor](args = (%clone, %gt, %clone_1), kwargs = {})
                return masked_fill
            """)
        x = torch.tensor([1.0, -1.0, 2.0])
        found = torch.fx.GraphModule(torch.nn.Module(), tidy)(x)
        self.assertTrue(torch.equal(found, masked(x)))

    def test_several_numbers(self) -> None:
        with FakeTensorMode():
            graph = make_fx(lambda x: x + torch.tensor([1.0, 2.0]))(
                torch.ones(2)).graph
            with self.assertRaisesRegex(CaptureError, "constant of 2 numbers"):
                clean(graph, ["x"], 0)


if __name__ == "__main__":
    unittest.main()
