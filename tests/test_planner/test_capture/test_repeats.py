"""Layers that are alike are traced once, and nobody can tell."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
import unittest
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
import transformers as hf
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from planner.capture import ladder
from planner.capture.capture import capture
from planner.capture.reference import model_values, run
from planner.capture.repeats import layers
from planner.capture.repeats.operator import AGAIN
from planner.capture.traced import Traced
from planner.ir.program import Program
from tests.markers import nightly
from tests.model_zoo import MODELS, VOCABULARY
from tests.test_scaletorch.test_models.tiny import TINY, tiny

WIDTH, DEPTH = 8, 5


def described(program: Program) -> list[str]:
    """All of a program but the names that nodes have by chance."""
    lines = [
        str(program),
        *(f"{b.name} = {b.block_class}{b.operands} -> {b.results}"
          for b in program.blocks), *map(str, program.specs.items()),
        *map(str, program.leaves), *map(str, program.aliases.items()),
        *map(str, program.constants), *map(str, program.outputs),
        *map(str, program.mutations.items()), *program.notes,
        str(program.loss)
    ]
    for name, cls in program.classes.items():
        number: dict[fx.Node, int] = {}
        for node in cls.graph.nodes:
            number[node] = len(number)
            arguments = fx.map_arg((node.args, node.kwargs),
                                   lambda n: f"%{number[n]}")
            meta = [node.meta.get(k) for k in ("label", "spec", "source")]
            lines.append(f"{name}: {node.op} {arguments} {meta}" + (
                str(node.target) if node.op == "call_function" else ""))
    # Regions are inlined from generated code, which is numbered.
    return [re.sub(r"<eval_with_key>\.\d+", "", line) for line in lines]


def traced_again(model: nn.Module,
                 inputs: Any,
                 loss_fn: Any = None) -> tuple[Program, int]:
    """The program, and how many layers were copied in the end."""
    copied = [0]
    unrolled = ladder.unrolled

    def counted(traced: Traced, withheld: Mapping[str, str],
                **more: Any) -> Traced:
        again = traced.graph.find_nodes(op="call_function", target=AGAIN)
        number = len(again) - len({n.args[2] for n in again})
        result = unrolled(traced, withheld, **more)
        copied[0] = number
        return result

    with mock.patch.object(ladder, "unrolled", counted):
        return capture(model, inputs, loss_fn=loss_fn), copied[0]


@contextlib.contextmanager
def decomposed_sizes() -> Iterator[list[int]]:
    """Nodes of each graph that torch makes functional, as they come."""
    exported, sizes = torch.export.ExportedProgram, list[int]()

    def decomposed(program: Any, table: Any) -> Any:
        sizes.append(len(program.graph.nodes))
        return decompose(program, table)

    decompose = exported.run_decompositions
    with mock.patch.object(exported, "run_decompositions", decomposed):
        yield sizes


class TestFamilies(unittest.TestCase):
    """Whole models give the program that they give layer by layer."""

    def check(self, model: nn.Module, inputs: Any, loss_fn: Any = None) -> int:
        short, count = traced_again(model, inputs, loss_fn)
        with mock.patch.object(layers, "_candidates", lambda model: iter(())):
            full = capture(model, inputs, loss_fn=loss_fn)
        self.assertEqual(described(short), described(full))
        return count

    def test_a_decoder(self) -> None:
        self.assertEqual(self.check(*MODELS["llama"]()), 2)

    def test_a_mixture_that_collects_its_router_logits(self) -> None:
        self.assertEqual(self.check(*MODELS["mixtral"]()), 1)

    def test_a_mixture_that_corrects_its_routers(self) -> None:
        router = dataclasses.replace(TINY["deepseek-v3"]["router"],
                                     correction_rate=0.1)
        model: Any = tiny("deepseek-v3", depth=6, dense_depth=2, router=router)
        inputs = model.example_inputs(2, 8)
        self.assertEqual(self.check(model.train(), inputs), 4)

    @nightly
    def test_every_model_of_the_zoo(self) -> None:
        for name, build in MODELS.items():
            with self.subTest(name):
                self.check(*build())

    @nightly
    def test_deep_models_of_the_library(self) -> None:
        for name, (model, inputs, count) in deep_models().items():
            with self.subTest(name):
                self.assertEqual(self.check(model, inputs), count)


def deep_models() -> dict[str, tuple[nn.Module, dict[str, Any], int]]:
    """With the number of layers that are copies of others."""
    ids = torch.zeros(2, 8, dtype=torch.int64)
    text = {"input_ids": ids, "labels": ids}
    decoder = dict(hidden_size=16,
                   intermediate_size=32,
                   num_hidden_layers=6,
                   num_attention_heads=2,
                   num_key_value_heads=2,
                   vocab_size=VOCABULARY,
                   pad_token_id=None,
                   attention_dropout=0.1)
    gemma = hf.Gemma3TextConfig(**decoder, head_dim=8, sliding_window=4)
    t5 = hf.T5Config(d_model=16,
                     d_kv=8,
                     d_ff=32,
                     num_layers=4,
                     num_heads=2,
                     vocab_size=VOCABULARY,
                     decoder_start_token_id=0)
    collected = hf.LlamaConfig(**decoder, output_hidden_states=True)
    built = {
        "gemma3": (hf.Gemma3ForCausalLM(gemma), 5),
        "t5": (hf.T5ForConditionalGeneration(t5), 4),
        "hidden states": (hf.LlamaForCausalLM(collected), 5),
    }
    return {n: (m.train(), text, c) for n, (m, c) in built.items()}


class Layer(nn.Module):

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self.index = index
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.inner(x))


class Stack(nn.Module):
    """Layers one after the other; `run` says how, if not so."""

    def __init__(self,
                 layer: Callable[[int], nn.Module],
                 run: Callable[[nn.ModuleList, Any], Any] | None = None,
                 depth: int = DEPTH) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer(i) for i in range(depth)])
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.sin()
        if self.run is not None:
            return self.run(self.layers, x).sum()
        for layer in self.layers:
            x = layer(x)
        return x.sum()


def layer_of(
    forward: Callable[[Any, Any], Any],
    prepare: Callable[[Any], None] | None = None
) -> Callable[[int], nn.Module]:
    """Layers with another forward, prepared by index."""
    cls = type("Layer", (Layer, ), {"forward": forward})

    def build(index: int) -> nn.Module:
        made = cls(index)
        if prepare is not None:
            prepare(made)
        return made

    return build


def alike_program(case: unittest.TestCase, model: nn.Module,
                  copies: int) -> Program:
    """The program, which is the same when each layer is traced."""
    x = torch.randn(4, WIDTH, requires_grad=True)
    short, count = traced_again(model.train(), (x, ))
    with mock.patch.object(layers, "_candidates", lambda model: iter(())):
        full = capture(model, (x, ))
    case.assertEqual(described(short), described(full))
    case.assertEqual(count, copies)
    return short


class TestDifferences(unittest.TestCase):
    """Layers that are alike at first sight only, and calls with effects."""

    def check(self, model: nn.Module, copies: int) -> None:
        alike_program(self, model, copies)

    def test_alike(self) -> None:
        self.check(Stack(Layer), 4)

    def test_a_number(self) -> None:

        def scaled(self: Any, x: Any) -> Any:
            return self.inner(x) * (2 if self.index == 3 else 1)

        self.check(Stack(layer_of(scaled)), 3)

    @nightly
    def test_a_number_of_another_type(self) -> None:

        def added(self: Any, x: Any) -> Any:
            return self.inner(x) + (1.0 if self.index == 3 else 1)

        self.check(Stack(layer_of(added)), 3)

    def test_a_hidden_branch(self) -> None:

        def branched(self: Any, x: Any) -> Any:
            y = self.inner(x)
            return y.relu() if self.index == 3 else y

        self.check(Stack(layer_of(branched)), 3)

    def test_a_branch_in_the_middle_of_every_other(self) -> None:

        def alternating(self: Any, x: Any) -> Any:
            y = self.inner(x)
            y = y.sin() if self.index % 2 else y.cos()
            return x + y

        self.check(Stack(layer_of(alternating)), 3)

    def test_frozen_parameters(self) -> None:
        model = Stack(Layer)
        model.layers[3].requires_grad_(False)
        self.check(model, 3)

    def test_dropout_of_another_probability(self) -> None:

        def dropped(self: Any, x: Any) -> Any:
            return self.drop(self.inner(x))

        def prepare(self: Any) -> None:
            self.drop = nn.Dropout(0.2 if self.index == 3 else 0.1)

        self.check(Stack(layer_of(dropped, prepare)), 3)

    @nightly
    def test_a_layer_in_evaluation_mode(self) -> None:

        def dropped(self: Any, x: Any) -> Any:
            return nn.functional.dropout(self.inner(x), 0.1, self.index != 3)

        self.check(Stack(layer_of(dropped)), 3)

    def test_another_dtype(self) -> None:

        def cast(self: Any, x: Any) -> Any:
            return self.inner(x.to(self.inner.weight.dtype)).to(x.dtype)

        model = Stack(layer_of(cast))
        model.layers[3].double()
        self.check(model, 3)

    @nightly
    def test_another_output_dtype_in_the_middle(self) -> None:

        def cast(self: Any, x: Any) -> Any:
            y = self.inner(x.float())
            return y.double() if self.index == 2 else y

        self.check(Stack(layer_of(cast)), 2)

    def test_one_layer_called_twice(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            for layer in (*listed, listed[1]):
                x = layer(x)
            return x

        self.check(Stack(Layer, run), 5)

    @nightly
    def test_one_module_under_two_names(self) -> None:
        shared = Layer()
        self.check(Stack(lambda i: shared if i in (1, 3) else Layer(i)), 4)

    def test_tied_parameters(self) -> None:
        model = Stack(Layer)
        model.layers[3].inner.weight = model.layers[1].inner.weight
        self.check(model, 4)

    @nightly
    def test_a_list_of_all_before_as_argument(self) -> None:

        def summed(self: Any, seen: Any) -> Any:
            return self.inner(torch.stack(seen).sum(0))

        def run(listed: Any, x: Any) -> Any:
            seen = [x]
            for layer in listed:
                seen.append(layer(seen))
            return seen[-1]

        self.check(Stack(layer_of(summed), run), 0)

    def test_a_list_of_all_before_on_the_side(self) -> None:
        seen: list[Any] = []

        def summed(self: Any, x: Any) -> Any:
            y = self.inner(x)
            for other in seen:
                y = y + other
            return y

        def run(listed: Any, x: Any) -> Any:
            seen.clear()
            for layer in listed:
                x = layer(x)
                seen.append(x)
            return x

        self.check(Stack(layer_of(summed), run), 0)

    def test_an_argument_that_layers_append_to(self) -> None:

        def noted(self: Any, x: Any, seen: list[Any]) -> Any:
            y = self.inner(x)
            seen.append(y.sin())
            return y

        def run(listed: Any, x: Any) -> Any:
            seen: list[Any] = []
            for layer in listed:
                x = layer(x, seen)
            return x + sum(seen)

        self.check(Stack(layer_of(noted), run), 0)

    def test_values_left_on_modules(self) -> None:

        def left(self: Any, x: Any) -> Any:
            y = self.inner(x)
            self.last = y.sin()
            return y

        def run(listed: Any, x: Any) -> Any:
            for layer in listed:
                x = layer(x)
            return x + sum(layer.last for layer in listed)

        self.check(Stack(layer_of(left), run), 4)

    def test_values_left_by_layers_that_differ(self) -> None:
        seen: list[Any] = []

        def left(self: Any, x: Any) -> Any:
            y = self.inner(x)
            seen.append(y.sin())
            return y.cos() if self.index % 2 else y

        def run(listed: Any, x: Any) -> Any:
            seen.clear()
            for layer in listed:
                x = layer(x)
            return x + sum(seen)

        self.check(Stack(layer_of(left), run), 0)

    @nightly
    def test_views_of_values_left_on_modules(self) -> None:

        def left(self: Any, x: Any) -> Any:
            y = self.inner(x)
            self.last = y.t()
            return y

        def run(listed: Any, x: Any) -> Any:
            for layer in listed:
                x = layer(x)
            return x + sum(layer.last.sum() for layer in listed)

        self.check(Stack(layer_of(left), run), 0)

    def test_a_counter(self) -> None:

        def counted(self: Any, x: Any) -> Any:
            self.index += 1
            y = self.inner(x)
            return y * self.index if self.index > 3 else y

        self.check(Stack(layer_of(counted)), 2)

    def test_an_input_written_in_place(self) -> None:

        def written(self: Any, x: Any) -> Any:
            y = self.inner(x)
            x.mul_(0.5)
            return y

        def run(listed: Any, x: Any) -> Any:
            x = x * 1
            seen = [x]
            for layer in listed:
                seen.append(layer(seen[-1]))
            return torch.stack(seen).sum(0)

        self.check(Stack(layer_of(written), run), 0)

    def test_an_output_written_in_place(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            for layer in listed:
                x = layer(x)
                x += 1
            return x

        self.check(Stack(Layer, run), 4)

    def test_a_view_of_an_input(self) -> None:

        def viewed(self: Any, x: Any) -> Any:
            return self.inner(x), x[:, 0]

        def run(listed: Any, x: Any) -> Any:
            total = 0
            for layer in listed:
                x, first = layer(x)
                total = total + first
            return x + total[:, None]

        self.check(Stack(layer_of(viewed), run), 0)

    @nightly
    def test_inputs_handed_through(self) -> None:

        def handed(self: Any, pair: Any) -> Any:
            x, skip = pair
            return self.inner(x) + skip, skip

        def run(listed: Any, x: Any) -> Any:
            pair = (x, x.sin())
            for layer in listed:
                pair = layer(pair)
            return pair[0]

        self.check(Stack(layer_of(handed), run), 4)

    @nightly
    def test_skips_between_layers(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            kept = []
            for layer in listed[:2]:
                x = layer(x)
                kept.append(x)
            for layer in listed[2:]:
                x = layer(x) + (kept.pop() if kept else 0)
            return x

        self.check(Stack(Layer, run), 4)

    @nightly
    def test_regions_without_gradients(self) -> None:

        def partly(self: Any, x: Any) -> Any:
            with torch.no_grad():
                scale = self.inner(x).abs().amax()
            return self.inner(x) / scale

        self.check(Stack(layer_of(partly)), 4)

    def test_regions_without_gradients_are_no_regions_of_the_graph(
            self) -> None:

        def partly(self: Any, x: Any) -> Any:
            with torch.no_grad():
                scale = self.inner(x).abs().amax()
            return self.inner(x) / scale

        with mock.patch.object(torch.export.ExportedProgram,
                               "run_decompositions") as by_torch:
            capture(Stack(layer_of(partly)), (torch.randn(4, WIDTH), ))
        by_torch.assert_not_called()

    def test_one_region_without_gradients(self) -> None:

        def partly(self: Any, x: Any) -> Any:
            with torch.set_grad_enabled(self.index != 3):
                scale = self.inner(x).abs().amax()
            return self.inner(x) / scale

        self.check(Stack(layer_of(partly)), 3)

    def test_regions_of_autocast(self) -> None:

        def cast(self: Any, x: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16, self.index != 3):
                y = self.inner(x)
            return x + y.float()

        self.check(Stack(layer_of(cast)), 3)

    def test_constants(self) -> None:

        def scaled(self: Any, x: Any) -> Any:
            return self.inner(x) * torch.tensor([0.5, 2.0] * (WIDTH // 2))

        self.check(Stack(layer_of(scaled)), 0)

    def test_constants_inside_of_an_operator(self) -> None:

        def picked(self: Any, x: Any) -> Any:
            return self.inner(x)[:, [1, 0, *range(2, WIDTH)]]

        program = alike_program(self, Stack(layer_of(picked)), 4)
        self.assertEqual(len(program.constants), 1)

    def test_constants_inside_of_an_operator_that_differ(self) -> None:

        def picked(self: Any, x: Any) -> Any:
            return self.inner(x)[:, [self.index, *range(1, WIDTH)]]

        program = alike_program(self, Stack(layer_of(picked)), 0)
        self.assertEqual(len(program.constants), DEPTH)

    def test_hooks(self) -> None:
        model = Stack(Layer)
        model.layers[3].register_forward_hook(lambda m, a, y: y * 2)
        model.layers[2].inner.register_forward_hook(lambda m, a, y: y.sin())
        self.check(model, 3)

    @nightly
    def test_a_caught_error(self) -> None:

        def guarded(self: Any, x: Any) -> Any:
            y = self.inner(x)
            try:
                return y.cos() if self.index == 3 else y.sin()
            except Exception:
                return y

        self.check(Stack(layer_of(guarded)), 3)

    def test_the_state_of_a_layer_read_elsewhere(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            for layer in listed:
                x = layer(x)
            return x * listed[3].inner.bias

        self.check(Stack(Layer, run), 4)

    def test_the_state_of_all_layers_read_elsewhere(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            for layer in listed:
                x = layer(x)
            return x + sum(p.square().sum() for p in listed.parameters())

        self.check(Stack(Layer, run), 4)

    def test_the_state_of_a_layer_as_argument_of_another(self) -> None:

        def with_others(self: Any, x: Any, other: Any) -> Any:
            return self.inner(x) * other

        def run(listed: Any, x: Any) -> Any:
            for layer, other in zip(listed, (*listed[1:], listed[0])):
                x = layer(x, other.inner.bias)
            return x

        self.check(Stack(layer_of(with_others), run), 4)

    def test_a_layer_that_is_not_called(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            for layer in (listed[0], listed[1], listed[4]):
                x = layer(x)
            return x

        self.check(Stack(Layer, run), 2)

    def test_what_is_exported_does_not_grow_with_depth(self) -> None:
        with decomposed_sizes() as sizes, mock.patch(
                "planner.capture.export.make_functional", return_value=None):
            for depth in (5, 9):
                self.check_depth(depth)
        self.assertEqual(sizes[0], sizes[1])

    def check_depth(self, depth: int) -> None:
        x = torch.randn(4, WIDTH, requires_grad=True)
        _, count = traced_again(Stack(Layer, depth=depth).train(), (x, ))
        self.assertEqual(count, depth - 1)

    def test_the_model_is_left_as_it_was(self) -> None:
        model = Stack(Layer)
        before = [type(m) for m in model.modules()]
        state, call = list(map(id, model.parameters())), nn.Module.__call__
        self.check(model, 4)
        self.assertIs(nn.Module.__call__, call)
        self.assertEqual([type(m) for m in model.modules()], before)
        self.assertEqual(list(map(id, model.parameters())), state)


def counting(forward: Callable[[Any, Any], Any]) -> Callable[[int], nn.Module]:
    """Layers that have a buffer of each kind, among them a batch norm's."""

    def prepare(self: Any) -> None:
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.norm = nn.BatchNorm1d(WIDTH)

    return layer_of(forward, prepare)


def averaged(self: Any, x: Any) -> Any:
    """A layer that reads what it writes, and once more what it has written."""
    y = self.inner(x) - self.mean
    with torch.no_grad():
        self.seen += 1
        self.mean.mul_(0.9).add_(y.mean(0), alpha=0.1)
        self.mean.clamp_(min=self.mean.abs().mean())
    return x + y * self.mean


def in_order(listed: Any, x: Any) -> Any:
    for layer in listed:
        x = layer(x)
    return x


class TestBuffers(unittest.TestCase):
    """Layers that write to their own buffers, and others' reads of these."""

    def check(self,
              model: nn.Module,
              copies: int,
              backward: bool = False) -> Program:
        program = alike_program(self, model, copies)
        x = torch.randn(4, WIDTH)
        outputs, written = run(program, model_values(model), (x, ))
        eager = copy.deepcopy(model)
        loss = eager(x)
        if backward:
            loss.backward()
        torch.testing.assert_close(outputs[0], loss)
        values = model_values(model) | written
        for name, tensor in model_values(eager).items():
            torch.testing.assert_close(values[name], tensor)
        return program

    def test_writes_and_reads_in_turn(self) -> None:
        program = self.check(Stack(counting(averaged)), 4)
        self.assertEqual(len(program.mutations), 2 * DEPTH)

    def test_batch_norms(self) -> None:

        def normed(self: Any, x: Any) -> Any:
            return self.norm(self.inner(x))

        program = self.check(Stack(counting(normed)), 4)
        self.assertEqual(len(program.mutations), 3 * DEPTH)

    def test_batch_norms_that_are_computed_again(self) -> None:

        def normed(self: Any, x: Any) -> Any:
            return checkpoint(lambda x: self.norm(self.inner(x)),
                              x,
                              use_reentrant=False)

        self.check(Stack(counting(normed)), 4, backward=True)

    def test_writes_that_are_computed_again(self) -> None:

        def again(self: Any, x: Any) -> Any:
            return checkpoint(averaged, self, x, use_reentrant=False)

        program = self.check(Stack(counting(again)), 4)
        self.assertEqual(len(program.notes), 1 + 2 * DEPTH)

    @nightly
    def test_batch_norms_with_averages_of_all_batches(self) -> None:

        def normed(self: Any, x: Any) -> Any:
            self.norm.momentum = None
            return self.norm(self.inner(x))

        self.check(Stack(counting(normed)), 4)

    def test_statistics_without_a_count(self) -> None:

        def normed(self: Any, x: Any) -> Any:
            return torch.batch_norm(self.inner(x), None, None,
                                    self.norm.running_mean,
                                    self.norm.running_var, True, 0.1, 1e-5,
                                    False)

        self.check(Stack(counting(normed)), 4)

    def test_statistics_of_which_nobody_says_that_they_change(self) -> None:

        def normed(self: Any, x: Any) -> Any:
            return torch._batch_norm_impl_index(self.inner(x), None, None,
                                                self.norm.running_mean,
                                                self.norm.running_var, True,
                                                0.1, 1e-5, False)[0]

        self.check(Stack(counting(normed)), 0)

    @nightly
    def test_statistics_that_are_read_only(self) -> None:

        def normed(self: Any, x: Any) -> Any:
            return self.norm.eval()(self.inner(x))

        program = self.check(Stack(counting(normed)), 4)
        self.assertFalse(program.mutations)

    def test_a_part_of_a_buffer(self) -> None:

        def partly(self: Any, x: Any) -> Any:
            y = self.inner(x)
            self.mean[:2] += y.detach().mean()
            self.mean.view(2, -1)[1].zero_()
            return y * self.mean

        self.check(Stack(counting(partly)), 4)

    def test_results_without_gradients(self) -> None:

        def loaded(self: Any, x: Any) -> Any:
            with torch.no_grad():
                load = self.inner(x).mean(0)
                self.mean.add_(load)
            return averaged(self, x) * load, load

        def run(listed: Any, x: Any) -> Any:
            total = x.sum(0)
            for layer in listed:
                x, load = layer(x)
                total = total + (load if load.requires_grad else 2 * load)
            return x * total

        self.check(Stack(counting(loaded), run), 4)

    @nightly
    def test_results_without_gradients_that_are_written(self) -> None:

        def loaded(self: Any, x: Any) -> Any:
            with torch.no_grad():
                load = self.inner(x).mean()
                self.mean.add_(load)
            return averaged(self, x), load

        def run(listed: Any, x: Any) -> Any:
            for layer in listed:
                x, load = layer(x)
                listed[0].mean.copy_(load)
                listed[0].mean.add_(1)
            return x

        self.check(Stack(counting(loaded), run), 4)

    @nightly
    def test_under_autocast(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                x = in_order(listed[:3], x)
            return in_order(listed, x)

        self.check(Stack(counting(averaged), run), 6)

    @nightly
    def test_without_gradients(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            with torch.no_grad():
                y = in_order(listed, x)
            return in_order(listed, x) * y

        self.check(Stack(counting(averaged), run), 7)

    def test_another_number_is_written(self) -> None:

        def counted(self: Any, x: Any) -> Any:
            self.seen += 2 if self.index == 3 else 1
            return self.inner(x)

        self.check(Stack(counting(counted)), 3)

    def test_one_layer_called_again(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            return in_order((*listed, listed[0], listed[2], *listed), x)

        program = self.check(Stack(counting(averaged), run), 11)
        self.assertEqual(len(program.mutations), 2 * DEPTH)

    @nightly
    def test_calls_of_two_kinds_in_turn(self) -> None:

        def scaled(self: Any, x: Any, scale: int = 1) -> Any:
            return averaged(self, x) * scale

        def run(listed: Any, x: Any) -> Any:
            for scale in (1, 2, 1):
                for layer in listed:
                    x = layer(x, scale)
            return x

        self.check(Stack(counting(scaled), run), 13)

    def test_one_buffer_of_two_layers(self) -> None:
        model = Stack(counting(averaged))
        model.layers[3].mean = model.layers[1].mean
        self.check(model, 4)

    def test_one_buffer_of_all_layers(self) -> None:
        model = Stack(counting(averaged))
        for layer in model.layers:
            layer.mean = model.layers[0].mean
        program = self.check(model, 4)
        self.assertEqual(len(program.mutations), DEPTH + 1)

    @nightly
    def test_one_buffer_under_two_names(self) -> None:

        def doubled(self: Any, x: Any) -> Any:
            self.mean += 1
            return self.inner(x) * self.other

        model = Stack(counting(doubled))
        for layer in model.layers:
            layer.register_buffer("other", layer.mean)
        self.check(model, 4)

    def test_read_from_outside_afterwards(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            return in_order(listed, x) * sum(layer.mean for layer in listed)

        self.check(Stack(counting(averaged), run), 4)

    @nightly
    def test_read_by_the_next_layer(self) -> None:

        def with_others(self: Any, x: Any, other: Any) -> Any:
            return averaged(self, x) * other

        def run(listed: Any, x: Any) -> Any:
            last = x.detach().mean(0)
            for layer in listed:
                x = layer(x, last)
                last = layer.mean
            return x

        self.check(Stack(counting(with_others), run), 4)

    @nightly
    def test_written_to_from_outside_before(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            for layer in listed:
                layer.mean.zero_()
            return in_order(listed, x)

        self.check(Stack(counting(averaged), run), 4)

    @nightly
    def test_written_to_from_outside_in_between(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            for layer in listed:
                x = layer(x)
                listed[0].mean.add_(layer.mean)
            return in_order(listed, x)

        self.check(Stack(counting(averaged), run), 9)

    def test_written_to_by_another_layer(self) -> None:

        def to_others(self: Any, x: Any, other: Any) -> Any:
            other.add_(1)
            return averaged(self, x)

        def run(listed: Any, x: Any) -> Any:
            for layer, other in zip(listed, (*listed[1:], listed[0])):
                x = layer(x, other.mean)
            return x

        self.check(Stack(counting(to_others), run), 0)

    def test_handed_back(self) -> None:

        def handed(self: Any, x: Any) -> Any:
            return averaged(self, x), self.mean

        def run(listed: Any, x: Any) -> Any:
            total = 0
            for layer in listed:
                x, mean = layer(x)
                total = total + mean
            return x * total

        self.check(Stack(counting(handed), run), 4)

    @nightly
    def test_a_view_handed_back(self) -> None:

        def handed(self: Any, x: Any) -> Any:
            return averaged(self, x), self.mean[:1]

        def run(listed: Any, x: Any) -> Any:
            for layer in listed:
                x, first = layer(x)
                x = x * first
            return x

        self.check(Stack(counting(handed), run), 0)

    def test_a_layer_whose_result_is_not_used(self) -> None:

        def run(listed: Any, x: Any) -> Any:
            in_order(listed[3:], in_order(listed[:3], x))
            return in_order(listed[:3], x)

        program = self.check(Stack(counting(averaged), run), 7)
        self.assertEqual(len(program.mutations), 2 * DEPTH)

    @nightly
    def test_assigned(self) -> None:

        def assigned(self: Any, x: Any) -> Any:
            y = self.inner(x)
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
            self.seen = self.seen + 1
            return y

        program = self.check(Stack(counting(assigned)), 4)
        self.assertEqual(len(program.mutations), 2 * DEPTH)

    @nightly
    def test_written_through_data(self) -> None:

        def behind(self: Any, x: Any) -> Any:
            y = self.inner(x)
            self.mean.data.mul_(0.9)
            self.mean.data = self.mean + y.mean(0).data
            return y

        self.check(Stack(counting(behind)), 4)

    def test_what_is_exported_does_not_grow_with_depth(self) -> None:
        x = torch.randn(4, WIDTH, requires_grad=True)
        with decomposed_sizes() as sizes:
            for depth in (5, 9):
                traced_again(Stack(counting(averaged), depth=depth), (x, ))
        self.assertEqual(sizes[0], sizes[1])


if __name__ == "__main__":
    unittest.main()
