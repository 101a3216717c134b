from __future__ import annotations

import dataclasses
import unittest

import torch

from planner.cluster.device import Coefficient, DeviceKind
from planner.cost.optimizer import OPTIMIZERS, optimizer_bytes, optimizer_s
from planner.rules.registry import TensorSpec
from tests.test_planner.test_cost.calls import spec_of

_SHAPES = ((6, 8), (8, ), (2, 3, 4))


def _state_bytes(name: str, dtype: torch.dtype) -> int:
    """Bytes that PyTorch's optimizer keeps after a step."""
    params = [torch.nn.Parameter(torch.ones(s, dtype=dtype)) for s in _SHAPES]
    classes = {
        "adafactor": torch.optim.Adafactor,
        "adagrad": torch.optim.Adagrad,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
        "sgd": torch.optim.SGD,
        "sgd-momentum": torch.optim.SGD,
    }
    options = {"momentum": 0.9} if name == "sgd-momentum" else {}
    optimizer = classes[name](params, lr=0.1, **options)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    return sum(t.numel() * t.element_size()
               for state in optimizer.state.values() for t in state.values()
               if isinstance(t, torch.Tensor))


class TestOptimizer(unittest.TestCase):

    def test_state_is_what_torch_keeps(self) -> None:
        for name in OPTIMIZERS:
            if name.endswith("-master"):
                continue
            for dtype in (torch.float32, torch.bfloat16):
                specs = [spec_of(torch.empty(s, dtype=dtype)) for s in _SHAPES]
                with self.subTest(f"{name} {dtype}"):
                    self.assertEqual(optimizer_bytes(name, specs),
                                     _state_bytes(name, dtype))

    def test_master_weights(self) -> None:
        """Adam keeps three times four bytes for each number of two."""
        half, full = (TensorSpec(shape=(6, 8), dtype=d)
                      for d in (torch.bfloat16, torch.float32))
        self.assertEqual(optimizer_bytes("adamw-master", [half]), 48 * 12 + 4)
        self.assertEqual(optimizer_bytes("sgd-master", [half]), 48 * 4)
        self.assertEqual(optimizer_bytes("adamw-master", [full]),
                         optimizer_bytes("adamw", [full]))

    def test_unknown_name(self) -> None:
        with self.assertRaisesRegex(
                ValueError, "optimizer 'adamm' is not known; did you mean "
                "adam"):
            optimizer_bytes("adamm", [])

    def test_a_step_passes_over_the_state(self) -> None:
        """At 1 byte a second, and one launch."""
        device = DeviceKind(name="slow",
                            memory_bytes=1,
                            memory_bandwidth_bytes_per_s=1.0,
                            peak_flops_per_s=(("float32", 1.0), ),
                            launch_overhead_s=0.5)
        for name, passes in (("sgd", 3), ("sgd-momentum", 5), ("adamw", 7)):
            self.assertEqual(optimizer_s(name, 10.0, device),
                             10 * passes + 0.5)
        self.assertEqual(
            optimizer_s("adamw-master", 10.0, device, state_bytes=60.0),
            2 * 10 + 2 * 60 + 0.5)
        self.assertEqual(
            optimizer_s("adamw-master", 10.0, device, state_bytes=20.0),
            optimizer_s("adamw", 10.0, device))
        quick = Coefficient(name="adamw_fused_share", value=2.0, source="")
        device = dataclasses.replace(device, coefficients=(quick, ))
        self.assertEqual(optimizer_s("adamw", 10.0, device), 35.5)
        self.assertEqual(optimizer_s("adamw", 0.0, device), 0.0)
        each = Coefficient(name="adamw_fused_parameter_s",
                           value=3.0,
                           source="")
        device = dataclasses.replace(device, coefficients=(quick, each))
        self.assertEqual(optimizer_s("adamw", 10.0, device, num_params=4),
                         35.5 + 12.0)


if __name__ == "__main__":
    unittest.main()
