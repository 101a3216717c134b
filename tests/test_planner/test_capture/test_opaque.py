"""What no trace can hold runs as it is, and gives what the model gives."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Sequence
from typing import Any
from unittest import mock

import scipy.optimize
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from planner.capture import reference
from planner.capture.capture import capture
from planner.capture.copies import copied
from planner.capture.opaque.call import Ended, NotIsolated
from planner.capture.opaque.trial import try_out
from planner.cluster import load_cluster
from planner.constraints import Constraints, forbid
from planner.cost.call_work import work
from planner.explain.report import build_report
from planner.explain.text import format_report
from planner.ir.errors import CaptureError
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.ir.values import call_of, calls_of
from planner.planning import Planning
from planner.recipes import RECIPES
from tests.test_planner.test_capture.eager import check_capture
from tests.test_planner.test_capture.test_traps import Noisy, module, rows


class Branch(nn.Module):
    """Control flow on values, a buffer, and two outputs."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.drop = nn.Dropout(p)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.linear(x)
        if y.sum() > 0:
            y = y.sin()
        if self.training:
            self.seen.mul_(0.5).add_(y.detach().mean(0))
        return self.drop(y), y.argmax(-1)


class Net(nn.Module):

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = nn.ModuleList(Branch(p) for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.first(x)
        for layer in self.layers:
            x, chosen = layer(x)
            x = x * (1 + chosen.unsqueeze(-1))
        return x.sum(-1), chosen.sum()


def net(p: float = 0.0) -> Net:
    torch.manual_seed(0)
    return Net(p).double()


def opaque_nodes(program: Program) -> list[Any]:
    return [
        n for cls in program.classes.values() for n in calls_of(cls.graph)
        if str(n.target) == "scaletorch.opaque.default"
    ]


class Assigned(nn.Module):
    """Numbers that must be finite, and as many marks in each row."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4).eval()

    def forward(self, x: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        order = torch.from_numpy(y.detach().numpy().argsort(0))
        if order.min() < 0 or y.isnan().any():
            raise ValueError("no order")
        chosen = y.gather(0, order)[marks].view(len(x), -1)
        return chosen[:, -1].sum()


class Matched(nn.Module):
    """A loss of its own that no trace can hold, from a plain function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.costs = Costs(weight=2.0)

    def forward(self,
                x: torch.Tensor,
                targets: list[torch.Tensor] | None = None) -> torch.Tensor:
        return matched(self.second(self.first(x).relu()), targets, self.costs)


class Costs:

    def __init__(self, weight: float) -> None:
        self.weight = weight


def matched(x: torch.Tensor,
            targets: list[torch.Tensor],
            costs: Costs,
            *,
            power: int = 2) -> torch.Tensor:
    rows = (scipy.optimize.linear_sum_assignment(
        torch.cdist(row[:, None], target[:, None]).detach().numpy())
            for row, target in zip(x, targets))
    found = [(row[list(i)] - target[list(j)]).abs()**power
             for row, target, (i, j) in zip(x, targets, rows)]
    return costs.weight * torch.cat(found).mean()


class Matcher(nn.Module):
    """Without parameters, as detectors have it; its call is a method."""

    def __init__(self) -> None:
        super().__init__()
        self.power = 2.0

    @torch.no_grad()
    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        cost = torch.cdist(x, target)**self.power
        return torch.from_numpy(
            scipy.optimize.linear_sum_assignment(cost.numpy())[1])


class Criterion(nn.Module):

    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (x - target[self.matcher(x, target)]).abs().sum()


class Detector(nn.Module):
    """Has its matcher under two names, for which export makes proxies."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.matcher = Matcher()
        self.criterion = Criterion(self.matcher)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.criterion(self.linear(x), target)
        return loss


class SeldomLonger(nn.Module):
    """Leaves something out by chance that shortens what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chance = torch.rand([]) if self.training else torch.empty(
            ()).uniform_(0, 1)
        if chance < 1e-6:
            return x
        y: torch.Tensor = self.linear(x)
        return y[::2]


class Closed(nn.Module):
    """The function finds a parameter elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:

        def ordered(x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            return y[torch.from_numpy(y.detach().numpy().argmax(0))]

        return ordered(x).sum()


class TestFunctions(unittest.TestCase):

    def test_alone_is_not_traced(self) -> None:
        before = matched.__code__, matched.__kwdefaults__
        for _ in range(2):
            program = check_capture(self,
                                    Matched().double(),
                                    (rows(), list(rows().flip(1))))
            self.assertIn("the function matched (", program.notes[-1])
            graphs = "".join(str(c.graph) for c in program.classes.values())
            self.assertEqual(graphs.count("aten.linear"), 2)
        self.assertEqual(before, (matched.__code__, matched.__kwdefaults__))

    def test_a_module_without_parameters(self) -> None:
        program = check_capture(self,
                                Detector().double(), (rows(), rows().flip(0)))
        (note, ) = program.notes
        self.assertIn("the function Matcher.forward (", note)

    def test_what_it_finds_elsewhere_keeps_its_gradient(self) -> None:
        program = check_capture(self, Closed().double(), (rows(), ))
        self.assertIn("the model (Closed) can't", program.notes[-1])


def doubled_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(2 * x)


class Scripted(nn.Module):
    """Holds a compiled function, and may ask for a value."""

    def __init__(self, *, asks: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        with warnings.catch_warnings(action="ignore"):  # It is deprecated.
            self.functions = [torch.jit.script(doubled_sigmoid)]
        self.asks = asks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = 1 + int(x.sum().item() > 0) if self.asks else 2
        for _ in range(count):
            x = self.functions[0](self.linear(x))
        return x.sum()


class TestTrial(unittest.TestCase):

    def test_what_runs_for_one_kind_of_values_is_not_known(self) -> None:

        def run(given: Sequence[torch.Tensor], trial: int) -> Ended:
            del trial
            x, mask = given
            if isinstance(x, FakeTensor):
                raise RuntimeError("only on numbers")
            if mask.all():
                raise ValueError("nothing is left")
            rows = x[~mask].reshape(2, -1, 4)
            return Ended(tensors=(rows, ),
                         leaves=(None, ),
                         tree=pytree.tree_structure(rows),
                         buffers={},
                         draws=False)

        like = [torch.empty(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)]
        with self.assertRaisesRegex(NotIsolated, "takes some only"):
            try_out(run, like, [False, False])
        marks = torch.tensor([[True, False, False]] * 2)
        found = try_out(run, like, [False, False], examples=[[like[0], marks]])
        self.assertEqual(tuple(found.ended.tensors[0].shape), (2, 2, 4))

    def test_values_of_the_example(self) -> None:
        marks = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0]])
        check_capture(self, Assigned().double(), (rows(), marks.bool()))

    def test_functions_that_are_compiled(self) -> None:
        for asks in (False, True):
            model = Scripted(asks=asks).double()
            program = check_capture(self, model, (rows(), ))
            self.assertEqual(len(program.notes), asks)
            self.assertIs(copied(model).functions[0], model.functions[0])

    def test_as_where_nothing_is_exported(self) -> None:

        class Asking(Branch):

            def forward(self, x: torch.Tensor) -> Any:
                if torch.compiler.is_exporting() \
                        or torch.compiler.is_compiling():
                    x = x[:1]
                return super().forward(x)

        check_capture(self, Asking().double(), (rows(), ))
        self.assertFalse(torch.compiler.is_exporting())

    def test_draws_at_the_ends_of_their_range(self) -> None:
        for training in (True, False):
            model = module(lambda self, x: self.inner(x).mean())
            model.inner = SeldomLonger().double().train(training)
            program = capture(model, (rows(), ))
            self.assertIn("the model (Function) can't", program.notes[-1])

    def test_loops_that_draw_until_they_get_another(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            drawn = torch.rand(())
            while drawn < 0.25 or drawn > 0.75:
                drawn = torch.rand(())
            result: torch.Tensor = self.linear(x).sum() * drawn
            return result

        program = capture(module(forward), (rows(), ))
        self.assertIn("runs whole", program.notes[-1])

    def test_mistakes_are_not_run_on_numbers(self) -> None:
        real: list[bool] = []

        def run(given: Sequence[torch.Tensor], trial: int) -> Ended:
            del trial
            real.append(not isinstance(given[0], FakeTensor))
            raise AttributeError("no such field")

        with self.assertRaisesRegex(NotIsolated, "no such field"):
            try_out(run, [torch.empty(2, 2)], [False])
        self.assertEqual(real, [False])

    def test_what_takes_too_much_memory(self) -> None:
        """Each product is as large as the memory that is left for all."""

        def run(given: Sequence[torch.Tensor], trial: int) -> Ended:
            del trial
            if isinstance(given[0], FakeTensor):
                raise RuntimeError("only on numbers")
            for _ in range(3):
                given[0].add(1)
            raise AssertionError("went on")

        size = 8 * 1024
        with mock.patch("planner.capture.opaque.trial.TRIAL_BYTES", size), \
                self.assertRaisesRegex(NotIsolated, "makes more than"):
            try_out(run, [torch.empty(size // 4)], [False])


class TestEqual(unittest.TestCase):

    def test_modules_of_one_kind_are_one_block_class(self) -> None:
        program = check_capture(self, net(), (rows(), ))
        classes = [b.block_class for b in program.blocks]
        self.assertEqual([c for c in classes if not c.startswith("Net")],
                         ["Branch"] * 3)
        self.assertEqual(len(opaque_nodes(program)), 1)
        self.assertEqual(len(program.mutations), 3)

    def test_without_training_nothing_is_written(self) -> None:
        program = check_capture(self, net().eval(), (rows(), ))
        self.assertEqual(len(program.mutations), 0)

    def test_both_branches(self) -> None:
        model = net()
        program = capture(model, (rows(), ))
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for layer in model.layers:
                    layer.linear.bias.fill_(sign * 9)
            outputs, _ = reference.run(program, reference.model_values(model),
                                       (rows(), ))
            torch.testing.assert_close(outputs[0], model(rows())[0])

    def test_inputs_with_gradients(self) -> None:
        check_capture(self, net(), (rows(True), ))

    def test_dropped_numbers_are_the_same_in_the_backward(self) -> None:
        model = net(0.5)
        program = capture(model, (rows(), ))
        values = reference.model_values(model)
        bias = model.layers[2].linear.bias
        (summed, _), _ = reference.run(program, values, (rows(), ))
        gradient, = torch.autograd.grad(summed.sum(), bias)
        torch.manual_seed(3)
        (before, _), _ = reference.run(program, values, (rows(), ))
        found, = torch.autograd.grad(before.sum(), bias)
        with torch.no_grad():
            bias.add_(1e-6)
        torch.manual_seed(3)
        (after, _), _ = reference.run(program, values, (rows(), ))
        self.assertAlmostEqual(float((after - before).detach().sum() / 1e-6),
                               float(found.sum()),
                               delta=1e-4)
        self.assertFalse(torch.equal(gradient, found))

    def test_rows_chosen_by_value(self) -> None:
        check_capture(
            self, module(lambda self, x: self.linear(x[x[:, 0] > 0]).sum()),
            (rows(), ))

    def test_values_written_without_gradients(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            with torch.no_grad():
                y *= 2
            return y

        model = module(forward)
        program = capture(model, (rows(), ))
        outputs, _ = reference.run(program, reference.model_values(model),
                                   (rows(), ))
        for output in (outputs[0], model(rows())):
            torch.testing.assert_close(output, 2 * model.linear(rows()))
            gradient, = torch.autograd.grad(output.sum(), model.linear.bias)
            torch.testing.assert_close(gradient, torch.full_like(gradient, 3))

    def test_statistics_of_instance_norm(self) -> None:
        model = nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True))
        program = check_capture(self, model.double(),
                                (rows().reshape(2, 3, 2), ))
        self.assertEqual(len(program.mutations), 2)

    def test_losses(self) -> None:

        def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            error = F.mse_loss(output, target)
            return error * 2 if error > 0.1 else error

        program = check_capture(self,
                                nn.Linear(4, 4).double(), (rows(), rows()),
                                loss)
        self.assertIn("the loss function can't be captured", program.notes[-1])

    def test_mixed_precision(self) -> None:
        model = net().to(torch.bfloat16)
        x = rows().to(torch.bfloat16)
        check_capture(self, model, (x, ), tolerance=1e-6)

    def test_ambient_autocast(self) -> None:
        model = net().float()
        x = rows().float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            program = capture(model, (x, ))
            expected, _ = model(x)
        self.assertIs(expected.dtype, torch.bfloat16)
        outputs, _ = reference.run(program, reference.model_values(model),
                                   (x, ))
        torch.testing.assert_close(outputs[0], expected)

    def test_random_functions(self) -> None:
        model = module(lambda self, x: Noisy.apply(self.linear(x)))
        capture(model, (rows(), ))

    def test_meta_models(self) -> None:
        program = capture(net().to("meta"), (rows().to("meta"), ))
        self.assertEqual(len(opaque_nodes(program)), 1)


class TestIsolated(unittest.TestCase):

    def check_path(self, model: nn.Module, path: str) -> None:
        program = check_capture(self, model, (rows(), ))
        self.assertRegex(program.notes[-1], f"^{path} can't be captured")

    def test_the_innermost_module(self) -> None:
        inner = nn.Sequential(nn.Linear(4, 4), net().layers[0])
        model = module(lambda self, x: self.inner(self.linear(x))[0])
        model.inner = inner.double()
        self.check_path(model, "inner.1")

    def test_numbers_that_are_returned_take_the_caller_in(self) -> None:
        model = module(lambda self, x: x * self.inner(self.linear(x)))
        model.inner = module(lambda self, x: float(x.sum() > 0))
        self.check_path(model, r"the model \(Function\)")

    def test_tensors_left_on_modules_take_the_model_in(self) -> None:

        def leave(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.left = self.linear(x)
            return self.left if x.sum() > 0 else -self.left

        def read(self: Any, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + self.inner.left

        model = module(lambda self, x: self.outer(x).cos())
        model.outer = module(read)
        model.outer.inner = module(leave)
        self.check_path(model, r"the model \(Function\)")


class TestRefused(unittest.TestCase):

    def check(self, model: nn.Module, message: str) -> None:
        with self.assertRaisesRegex(CaptureError, message):
            capture(model, (rows(), ))

    def test_shapes_that_depend_on_values(self) -> None:
        self.check(
            module(lambda self, x: self.linear(x)[x[:, 0] > 0]),
            "depends on the values of a tensor .* use a mask .*nor can it be "
            "run uncaptured: .*depends on the values of tensors")

    def test_what_fails_anyway(self) -> None:
        self.check(module(lambda self, x: self.linear(x) @ x),
                   "test_opaque.py:")

    def test_shapes_that_change_later(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            return y if x.sum() < 1e6 else y[:1]

        model = module(forward)
        program = capture(model, (rows(), ))
        with self.assertRaisesRegex(CaptureError,
                                    "the model .*returns .*must not depend"):
            reference.run(program, reference.model_values(model),
                          (rows() + 1e7, ))

    def test_forbidden(self) -> None:
        self.assertFalse(Constraints(forbid("opaque")).allows_opaque())
        with self.assertRaisesRegex(CaptureError, "use torch.where"):
            capture(net(), (rows(), ), opaque=False)


class TestPrice(unittest.TestCase):

    def test_note(self) -> None:
        note, = capture(net(), (rows(), )).notes
        self.assertRegex(
            note, r"^layers.0 and 2 like it can't be captured \(control flow "
            r".*test_opaque.py:\d+ in forward: if y.sum\(\) > 0:.*\): it "
            r"runs whole, as it is written, on every rank of every axis, and "
            r"once more in the backward; .* 2.9e\+02 flops, .*forbid")

    def test_work(self) -> None:
        node, = opaque_nodes(capture(net(), (rows(), )))
        done = work(call_of(node))
        self.assertEqual(done.forward_flops, 2 * 3 * 4 * 4)
        self.assertEqual(done.backward_flops, 3 * done.forward_flops)
        self.assertGreater(done.saved_bytes, 0)

    def test_report(self) -> None:
        program = capture(net(), (torch.randn(4, 4).double(), ))
        planning = Planning(program, load_cluster("cpu-gloo").resized(2))
        chosen = planning.from_recipe(RECIPES["ddp"](),
                                      MeshSpec(("dp", ), (2, )))
        report = build_report(planning, chosen, [chosen])
        row, = report["opaque"]
        self.assertEqual((row["module"], row["class"], row["count"]),
                         ("layers.0", "Branch", 3))
        self.assertRegex(row["location"], r"test_opaque.py:\d+$")
        self.assertGreater(row["costs_s"]["dp"], 0.0)
        self.assertIn("runs whole on every rank", format_report(report))


if __name__ == "__main__":
    unittest.main()
