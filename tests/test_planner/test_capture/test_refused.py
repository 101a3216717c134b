"""What is refused, and that the message says where, why and what to try."""

from __future__ import annotations

import threading
import unittest
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from planner.capture.capture import capture
from planner.ir.errors import CaptureError
from scaletorch.structure import skeleton
from tests.test_planner.test_capture.test_traps import module, rows


class TestTraced(unittest.TestCase):

    def check(self, model: nn.Module, message: str, *inputs: Any) -> None:
        with self.assertRaisesRegex(CaptureError, message):
            capture(model, inputs or (rows(), ))

    def check_traced(self, model: nn.Module, message: str, *inputs:
                     Any) -> None:
        """What is run as it is where that is not forbidden."""
        with self.assertRaisesRegex(CaptureError, message):
            capture(model, inputs or (rows(), ), opaque=False)
        program = capture(model, inputs or (rows(), ))
        self.assertRegex(program.notes[-1], "runs whole, as it is written")

    def test_control_flow_on_values(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            if y.sum() > 0:
                y = y.sin()
            return y

        self.check_traced(
            module(forward),
            r"^cannot capture Function: control flow or a shape depends on "
            r"the values of a tensor; at .*test_refused.py:\d+ in forward: "
            r"if y.sum\(\) > 0:; use torch.where")

    def test_shapes_from_values(self) -> None:
        self.check_traced(
            module(lambda self, x: self.linear(x[x[:, 0] > 0]).sum()),
            r"a shape or a number depends on the values of a tensor "
            r"\(aten.index.Tensor\), at the model \(.*/"
            r"test_\w+.py:\d+\); use a mask")

    def test_other_errors_name_the_line(self) -> None:
        self.check(
            module(lambda self, x: self.linear(x) @ x),
            r"cannot capture Function: .*; at .*test_refused.py:\d+ in "
            r"<lambda>")

    def test_writing_to_a_parameter(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.linear.weight.mul_(x.amax())
            return self.linear(x)

        self.check(
            module(forward), r"writes to the parameter linear.weight in "
            r"place \(what follows from inputs\); make it a buffer")

    def test_converting_a_module(self) -> None:
        casts: list[Callable[[nn.Module], nn.Module]] = [
            lambda m: m.to(torch.float32), lambda m: m.float()
        ]
        for cast in casts:

            def forward(self: Any, x: torch.Tensor, cast: Any = cast) -> Any:
                return cast(self.linear)(x.float()).sum()

            self.check(
                module(forward), r"converts linear \(its weight\) from "
                r"torch.float64 to torch.float32, at .*test_refused.py:\d+: "
                r".*; do it before .*: model.linear.to\(torch.float32\)")

    def test_modules_that_stay_as_they_are(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.linear.double().to("cpu")(x)
            return y.sum()

        self.assertEqual(capture(module(forward), (rows(), )).notes, ())

    def test_writing_to_an_input_that_is_given_twice(self) -> None:
        x = rows()
        with self.assertRaisesRegex(
                CaptureError, r"writes in place to its input args\[0\], whose "
                r"memory is another input's too; write to a copy"):
            capture(module(lambda self, x, y: self.linear(x.mul_(2) + y)),
                    (x, x),
                    opaque=False)

    def test_writing_without_gradients_into_what_carries_them(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            with torch.no_grad():
                y *= 2
            return y

        self.check_traced(
            module(forward), r"a torch.no_grad block writes \(\w+\) into a "
            r"value that carries a gradient, at .*test_refused.py:\d+: "
            r"y \*= 2; clone or detach")

    def test_state_that_is_no_buffer(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.last = self.linear(x).detach() + self.last
            return self.last

        model = module(forward)
        model.last = torch.zeros(3, 4, dtype=torch.float64)
        self.check(model, "assigns to the tensor last, which is no buffer")

    def test_a_buffer_that_changes_shape(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.count = self.linear(x).detach()
            return self.count

        self.check(
            module(forward),
            r"changes the buffer count from \(4,\) of torch.float64 "
            r"to \(3, 4\)")

    def test_statistics_of_instance_norm(self) -> None:
        model = nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True))
        x = torch.randn(2, 3, 4)
        self.check_traced(
            model, "an instance norm updates running statistics.*at 0.*"
            "track_running_stats=False", x)
        capture(model.eval(), (x, ))
        capture(nn.InstanceNorm1d(3), (x, ))

    def test_outputs_that_are_no_tree(self) -> None:
        self.check(module(lambda self, x: {"a": object()}),
                   "the model returns a object, which is no pytree")


class TestModels(unittest.TestCase):

    def check(self, model: Any, error: type[Exception], message: str) -> None:
        with self.assertRaisesRegex(error, message):
            capture(model, (torch.randn(2, 4), ))

    def test_no_module(self) -> None:
        self.check(torch.relu, TypeError, "must be a torch.nn.Module")

    def test_wrapped_for_several_devices(self) -> None:
        self.check(nn.Sequential(nn.DataParallel(nn.Linear(4, 4))), TypeError,
                   "the submodule 0 is wrapped in DataParallel, .*plain")

    def test_several_devices(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta"))
        self.check(
            model, ValueError, r"several devices \(0.weight on cpu, "
            r"1.weight on meta\); put it on one")

    def test_sparse_parameters(self) -> None:
        model = nn.Linear(4, 4)
        model.weight = nn.Parameter(model.weight.detach().to_sparse())
        self.check(model, ValueError, "parameter weight is sparse .*to_dense")

    def test_modules_made_by_jit(self) -> None:
        with warnings.catch_warnings(action="ignore"):  # It is deprecated.
            inner = torch.jit.script(nn.Linear(4, 4))
        with self.assertRaisesRegex(
                CaptureError, r"the submodule 0 was made by torch.jit "
                r"\(Linear\).*; give the module that it was made from"):
            capture(nn.Sequential(inner), (rows().float(), ))

    def test_what_can_not_be_copied(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4))
        model[0].lock = threading.Lock()
        with self.assertRaisesRegex(
                CaptureError, r"^0.lock can't be copied \(copy.deepcopy of a "
                r"lock: .*; keep it elsewhere"):
            skeleton(model)

    def test_hooks_of_the_backward(self) -> None:
        message = "the submodule 0 has a backward hook"
        for register in ("register_full_backward_hook",
                         "register_full_backward_pre_hook"):
            model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            handle = getattr(model[0], register)(lambda *_: None)
            self.check(model, ValueError, message)
            handle.remove()
            capture(model, (torch.randn(2, 4), ))

    def test_hooks_of_gradients(self) -> None:
        for register in ("register_hook",
                         "register_post_accumulate_grad_hook"):
            model = nn.Sequential(nn.Linear(4, 4))
            handle = getattr(model[0].weight, register)(lambda _: None)
            self.check(model, ValueError,
                       "parameter 0.weight has a gradient hook")
            handle.remove()
            capture(model, (torch.randn(2, 4), ))

    def test_lazy_modules(self) -> None:
        self.check(nn.LazyLinear(4), ValueError,
                   r"parameter weight has no shape yet \(a lazy module\)")

    def test_a_loss_with_parameters(self) -> None:
        loss = nn.Bilinear(4, 4, 1)
        with self.assertRaisesRegex(
                ValueError, "loss_fn has a trainable parameter weight"):
            capture(nn.Linear(4, 4), (rows().float(), rows().float()),
                    loss_fn=loss)

    def test_averages_weighted_by_a_count(self) -> None:

        class Own(nn.BatchNorm1d):

            def forward(self, input: torch.Tensor) -> torch.Tensor:
                return super().forward(input)

        model = nn.Sequential(nn.Linear(4, 4), Own(4, momentum=None))
        self.check(
            model, CaptureError, "the submodule 1 is a Own with "
            "momentum=None and a forward of its own, .*; set its momentum")
        capture(model.eval(), (torch.randn(2, 4), ))


class TestInputs(unittest.TestCase):

    def test_a_loss_without_a_signature(self) -> None:
        with self.assertRaisesRegex(
                TypeError, "loss_fn sum is a builtin, .*; wrap it: "
                r"loss_fn=lambda output: sum\(output\)"):
            capture(nn.Linear(4, 4), (rows(), ), loss_fn=torch.sum)

    def test_named_inputs_and_no_target(self) -> None:
        program = capture(nn.Linear(4, 4), {"input": rows().float()},
                          loss_fn=lambda output: output.sum())
        self.assertEqual(program.loss, 0)

    def test_inputs_that_do_not_fit(self) -> None:
        with self.assertRaisesRegex(
                TypeError, r"do not fit Linear.forward\(input.*: too many "
                r"positional arguments; pass a tuple"):
            capture(nn.Linear(4, 4), (rows(), rows()))

    def test_too_few_targets(self) -> None:
        with self.assertRaisesRegex(TypeError,
                                    r"loss_fn takes 1 target\(s\) .* only 1 "):
            capture(nn.Linear(4, 4), (rows(), ), loss_fn=F.mse_loss)

    def test_no_inputs_at_all(self) -> None:
        with self.assertRaisesRegex(ValueError,
                                    r"has no example_inputs\(\) and no"):
            capture(nn.Linear(4, 4))

    def test_inputs_of_another_kind(self) -> None:
        with self.assertRaisesRegex(TypeError, "got int"):
            capture(nn.Linear(4, 4), 3)


if __name__ == "__main__":
    unittest.main()
