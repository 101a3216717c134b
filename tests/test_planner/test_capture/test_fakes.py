"""The short way to fake tensors gives what the public one gives."""

from __future__ import annotations

import unittest

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from planner.capture.fakes import fake_leaf, fake_like


def _public(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        fake = torch.empty_strided(tensor.shape,
                                   tensor.stride(),
                                   dtype=tensor.dtype,
                                   device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(fake, requires_grad=tensor.requires_grad)
    return fake


def _known(tensor: torch.Tensor) -> tuple[object, ...]:
    return (type(tensor), isinstance(tensor, nn.Parameter), tensor.shape,
            tensor.stride(), tensor.dtype, tensor.device, tensor.layout,
            tensor.requires_grad, tensor.is_leaf, tensor.storage_offset(),
            tensor.untyped_storage().nbytes(), tensor.is_inference())


class TestFakes(unittest.TestCase):

    def test_as_the_public_way(self) -> None:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        meta = torch.empty(3, 4, device="meta", dtype=torch.bfloat16)
        for tensor in (torch.randn(2, 3), torch.randn(2, 3).t(), meta,
                       torch.ones(2, dtype=torch.int64)[::2],
                       nn.Parameter(torch.randn(2, 3)), nn.Parameter(meta),
                       nn.Parameter(torch.randn(2), requires_grad=False)):
            with self.subTest(tensor.shape):
                fake = fake_leaf(tensor, mode)
                self.assertEqual(_known(fake), _known(_public(tensor, mode)))
                assert isinstance(fake, FakeTensor)
                self.assertIs(fake.fake_mode, mode)
                self.assertEqual(fake.add(1).shape, tensor.shape)

    def test_where_other_tensors_are_fake_already(self) -> None:
        mode = FakeTensorMode()
        with FakeTensorMode():
            fake = fake_like(torch.empty(2, 3), mode)
        assert isinstance(fake, FakeTensor)
        self.assertIs(fake.fake_mode, mode)
        self.assertEqual(fake.device.type, "cpu")


if __name__ == "__main__":
    unittest.main()
