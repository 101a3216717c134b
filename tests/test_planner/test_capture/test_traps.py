"""What models do that a trace could get wrong without a word."""

from __future__ import annotations

import random
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from planner.capture.capture import capture
from tests.test_planner.test_capture.eager import check_capture


class Function(nn.Module):
    """A module of one function, with a linear layer and a counter."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(4))
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def module(function: Callable[..., Any]) -> Function:
    torch.manual_seed(0)
    return Function(function).double()


def rows(requires_grad: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, dtype=torch.float64,
                       generator=generator).requires_grad_(requires_grad)


class TestModules(unittest.TestCase):

    def test_compiled_ones(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            return self.head(x).sum()

        model = module(forward)
        model.layers = nn.ModuleList(
            torch.compile(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
            for _ in range(2))
        model.head = torch.compile(nn.Linear(4, 4))
        program = check_capture(self, model.double(), (rows(), ))
        self.assertEqual(program.notes, ())


class TestState(unittest.TestCase):

    def test_buffers_updated_in_place_and_by_assignment(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.count.mul_(0.5)
            self.count = self.count + 1
            return (self.linear(x) * self.count).sum()

        model = module(forward)
        program = check_capture(self, model, (rows(), ))
        self.assertEqual(list(program.mutations), ["buffer:count"])
        self.assertTrue(torch.equal(model.count,
                                    torch.zeros_like(model.count)))

    def test_attributes_are_put_back(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.linear(x)

        model = module(forward)
        weight = model.linear.weight
        capture(model, (rows(), ))
        self.assertEqual(model.calls, 0)
        self.assertIs(model.linear.weight, weight)

    def test_tied_weights_have_one_name(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            return F.linear(self.other(self.linear(x)), self.linear.weight)

        model = module(forward)
        model.other = nn.Linear(4, 4).double()
        model.other.weight = model.linear.weight
        program = check_capture(self, model, (rows(), ))
        self.assertEqual(program.aliases, {"other.weight": "linear.weight"})
        self.assertNotIn("param:other.weight", program.specs)

    def test_frozen_parameters(self) -> None:
        model = module(lambda self, x: self.linear(x))
        model.linear.weight.requires_grad_(False)
        program = check_capture(self, model, (rows(), ))
        self.assertFalse(program.specs["param:linear.weight"].requires_grad)
        self.assertTrue(program.specs["param:linear.bias"].requires_grad)

    def test_models_on_meta_are_captured_alike(self) -> None:
        model = module(lambda self, x: self.linear(x).relu())
        real = capture(model, (rows(), ))
        meta = capture(model.to("meta"), (rows().to("meta"), ))
        self.assertEqual(str(real), str(meta))
        for name, cls in real.classes.items():
            self.assertEqual(str(cls.graph), str(meta.classes[name].graph))

    def test_tensor_attributes_are_constants(self) -> None:
        scale = torch.arange(4.0, dtype=torch.float64)
        model = module(lambda self, x: self.linear(x) * scale)
        program = check_capture(self, model, (rows(), ))
        self.assertEqual(len(program.constants), 1)

    def test_a_loss_module_with_buffers(self) -> None:
        loss = nn.CrossEntropyLoss(weight=torch.rand(4).double())
        model = module(lambda self, x: self.linear(x))
        program = check_capture(self, model, (rows(), torch.tensor([0, 2, 1])),
                                loss)
        self.assertIn("const:loss_fn.weight", program.constants)

    def test_evaluation_mode(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4),
                              nn.Dropout(0.5)).double().eval()
        program = check_capture(self, model, (rows(), ))
        self.assertFalse(program.training)
        self.assertFalse(program.mutations)

    def test_forward_only(self) -> None:
        model = module(lambda self, x: self.linear(x)).requires_grad_(False)
        with torch.no_grad():
            program = check_capture(self, model, (rows(), ))
        self.assertFalse(any(s.requires_grad for s in program.specs.values()))

    def test_gradients_are_captured_under_no_grad(self) -> None:
        model = module(lambda self, x: self.linear(x).sum())
        with torch.no_grad():
            program = capture(model, (rows(), ))
        cls, = program.classes.values()
        self.assertTrue(cls.results[0].meta["spec"].requires_grad)


class TestGradients(unittest.TestCase):

    def test_no_grad_blocks(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            with torch.no_grad():
                z = y * 2
                with torch.enable_grad():
                    w = z * y
                v = w * y
            return (y * z + w + v).sum()

        check_capture(self, module(forward), (rows(), ))

    def test_a_running_mean_used_after_its_update(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            with torch.no_grad():
                self.count.mul_(0.9).add_(y.mean(0), alpha=0.1)
            return (y * self.count).sum()

        check_capture(self, module(forward), (rows(), ))

    def test_a_no_grad_block_inside_of_autocast(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            with torch.autocast("cpu", torch.bfloat16):
                with torch.no_grad():
                    z = y @ y.t()
                return (z @ y).float().sum()

        check_capture(self, module(forward).float(), (rows().float(), ))

    def test_detach_and_data(self) -> None:
        check_capture(
            self,
            module(lambda self, x:
                   (self.linear(x) * self.linear(x).detach()).sum()),
            (rows(), ))

    def test_both_kinds_of_checkpointing(self) -> None:
        for reentrant in (True, False):

            def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
                y = checkpoint(self.linear, x, use_reentrant=reentrant)
                return checkpoint(torch.sin, y, use_reentrant=reentrant)

            with self.subTest(reentrant=reentrant):
                program = check_capture(self, module(forward), (rows(True), ))
                self.assertIn("the plan decides what is recomputed",
                              program.notes[0])

    def test_inputs_that_require_gradients(self) -> None:
        program = check_capture(self, module(lambda self, x: self.linear(x)),
                                (rows(True), ))
        self.assertTrue(program.specs["input:0"].requires_grad)

    def test_mixed_dtypes(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            half = self.half_layer(self.linear(x).bfloat16())
            return (half.double() + x).sum()

        model = module(forward)
        model.half_layer = nn.Linear(4, 4).bfloat16()
        check_capture(self, model, (rows(), ), tolerance=1e-2)

    def test_writing_into_a_made_tensor(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            out = torch.zeros(3, 8, dtype=x.dtype)
            out[:, :4] = self.linear(x)
            out[:, 4:] += x
            return out.relu_().sum()

        check_capture(self, module(forward), (rows(), ))

    def test_dropout_draws_what_eager_draws(self) -> None:
        model = module(lambda self, x: F.dropout(self.linear(x), 0.5))
        check_capture(self, model, (rows(), ))


class TestAutocast(unittest.TestCase):

    def test_a_region_inside_of_the_model(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                y = self.linear(x)
                with torch.autocast("cpu", enabled=False):
                    z = self.linear(y.float())
            return y.float() + z

        check_capture(self, module(forward).float(), (rows().float(), ))

    def test_an_ambient_one_is_part_of_the_program(self) -> None:
        model = module(lambda self, x: self.linear(x)).float()
        with torch.autocast("cpu", torch.bfloat16):
            program = capture(model, (rows().float(), ))
            self.assertTrue(torch.is_autocast_enabled("cpu"))
        cls, = program.classes.values()
        self.assertEqual(cls.results[0].meta["spec"].dtype, torch.bfloat16)
        targets = [str(n.target) for n in cls.calls]
        self.assertEqual(targets.count("aten._to_copy.default"), 3)


class Doubled(torch.autograd.Function):
    """Identity forward, twice the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, = ctx.saved_tensors
        return grads[0] * ctx.factor + 0 * x, None


class Noisy(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads


class Split(torch.autograd.Function):
    """Two outputs, and the newer way of saving."""

    @staticmethod
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x * 3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.saved_tensors[0] + grads[1]


class TestFunctions(unittest.TestCase):

    def test_a_custom_backward_is_kept(self) -> None:
        bound = Doubled.apply

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            return bound(self.linear(bound(x, 7.0)), 3.0).sum()

        program = check_capture(self, module(forward), (rows(True), ))
        self.assertIn("Doubled is kept as an operator", program.notes[0])

    def test_several_outputs(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            a, b = Split.apply(self.linear(x))
            return (a * b.sin()).sum()

        check_capture(self, module(forward), (rows(), ))

    def test_random_ones_are_refused(self) -> None:
        model = module(lambda self, x: Noisy.apply(self.linear(x)))
        with self.assertRaisesRegex(
                ValueError, r"Noisy \(.*test_traps.py:\d+\) has a backward "
                r"of its own, .* draws random numbers"):
            capture(model, (rows(), ), opaque=False)


@dataclass
class Pair:
    left: torch.Tensor
    right: Any


pytree.register_dataclass(Pair)


class TestCalls(unittest.TestCase):

    def test_outputs_of_many_kinds(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> Any:
            y = self.linear(x)
            pair = Pair(y, {"again": y, "input": x, "none": None})
            return [pair, (self.linear.weight, self.count), 3, "text"]

        program = check_capture(self, module(forward), (rows(), ))
        self.assertIsNone(program.loss)
        self.assertEqual(program.outputs[1], program.outputs[0])
        self.assertEqual(program.outputs[2], "input:0")

    def test_a_transposed_output_and_a_view_of_an_input(self) -> None:
        check_capture(self,
                      module(lambda self, x: (self.linear(x).t(), x[1:])),
                      (rows(), ))

    def test_constants_among_the_inputs(self) -> None:

        def forward(self: Any,
                    x: Any,
                    *,
                    scale: float,
                    flag: bool,
                    name: str | None = None) -> torch.Tensor:
            y = self.linear(x[0]["a"]) * scale
            return (y if flag and name is None else -y).sum()

        model = Constants(forward)
        program = check_capture(self, model, {
            "x": [{
                "a": rows()
            }],
            "scale": 2.5,
            "flag": True,
            "name": None
        })
        constants = [leaf.constant for leaf in program.leaves]
        self.assertEqual(constants, [None, 2.5, True, None])
        self.assertEqual(program.leaves[0].path, "kwargs['x'][0]['a']")

    def test_compiled_models_are_unwrapped(self) -> None:
        model = module(lambda self, x: self.linear(x))
        program = capture(torch.compile(model), (rows(), ))
        self.assertEqual(program.model_name, "Function")

    def test_a_number_that_forward_changes_is_told(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.linear(x).sum() * self.calls

        program = capture(module(forward), (rows(), ))
        self.assertEqual(len(program.notes), 1)
        self.assertIn("forward changes the number calls", program.notes[0])
        self.assertIn("make it a buffer", program.notes[0])

    def test_numbers_of_other_generators_are_told(self) -> None:
        draws = {"random": random.random, "numpy.random": numpy.random.rand}
        for name, draw in draws.items():

            def forward(self: Any,
                        x: torch.Tensor,
                        draw: Callable[[], float] = draw) -> torch.Tensor:
                return self.linear(x).sum() * draw()

            program = capture(module(forward), (rows(), ))
            self.assertEqual(len(program.notes), 1)
            self.assertIn(f"forward draws from {name},", program.notes[0])


class Constants(Function):
    """Has names for its inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.double()

    def forward(self,
                x: Any,
                scale: float,
                flag: bool,
                name: str | None = None) -> Any:
        return self.function(self, x, scale=scale, flag=flag, name=name)


if __name__ == "__main__":
    unittest.main()
