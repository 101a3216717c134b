"""Models built on meta: initialised alike on any mesh, a module at a time."""

from __future__ import annotations

import unittest
from typing import Any
from unittest import mock

import torch
from torch import nn

from scaletorch import materialize, parallel
from scaletorch.structure import skeleton, slots_of
from tests.model_zoo import MODELS, tokens
from tests.test_scaletorch.small import (Mlp, Normed, TiedLM, batch, ids,
                                         images, on_ranks, whole)


def state_of(model: nn.Module) -> dict[str, Any]:
    tied = [len(list(model.parameters()))]
    return {
        "tied": tied
    } | {
        n: whole(t)
        for n, t in (*model.named_parameters(remove_duplicate=False),
                     *model.named_buffers())
    }


def initial(build: Any,
            inputs: Any,
            axes: dict[str, int],
            plan: Any,
            seed: int = 3) -> dict[str, Any]:
    with torch.device("meta"):
        model = build()
    torch.manual_seed(seed)
    found = on_ranks(model, inputs, state_of, axes, plan)
    for other in found[1:]:
        for name, value in found[0].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other[name]), name
    return found[0]


class TestPlainModules(unittest.TestCase):

    def test_the_same_on_any_mesh(self) -> None:
        inputs = tuple(x.float() for x in batch())
        one = initial(Mlp, inputs, {"dp": 2}, parallel.ddp())
        two = initial(Mlp, inputs, {
            "dp": 2,
            "tp": 2
        },
                      parallel.fsdp() * parallel.megatron())
        other = initial(Mlp, inputs, {"dp": 2}, parallel.ddp(), seed=4)
        for name in ("up.weight", "up.bias", "norm.weight", "down.weight"):
            self.assertTrue(torch.equal(one[name], two[name]), name)
        self.assertFalse(torch.equal(one["up.weight"], other["up.weight"]))
        self.assertTrue(torch.equal(one["norm.weight"], torch.ones(16)))
        bound = 8**-0.5
        self.assertLessEqual(float(one["up.weight"].abs().max()), bound)
        self.assertGreater(float(one["up.weight"].abs().max()), 0.8 * bound)

    def test_buffers_and_ties(self) -> None:
        inputs = tuple(x.float() for x in images())
        found = initial(Normed2, inputs, {"dp": 2}, parallel.ddp())
        self.assertTrue(torch.equal(found["norm.running_var"], torch.ones(4)))
        self.assertEqual(float(found["seen"]), 0.0)
        tied = initial(TiedLM, (ids(), ), {"dp": 2}, parallel.fsdp())
        self.assertEqual(tied["tied"], [3])
        self.assertTrue(torch.equal(tied["embed.weight"], tied["head.weight"]))

    def test_what_nothing_initialises_is_named(self) -> None:
        with self.assertRaisesRegex(
                RuntimeError, "buffer seen is on the meta device.*give "
                r"Normed a method reset_parameters\(\)"):
            initial(Normed, tuple(x.float() for x in images()), {"dp": 2},
                    parallel.ddp())

    def test_one_module_at_a_time(self) -> None:
        sizes = []
        made = materialize._made

        def recording(own: Any, *rest: Any) -> Any:
            sizes.append(sum(t.numel() for t in own.values()))
            return made(own, *rest)

        inputs = tuple(x.float() for x in batch())
        with mock.patch.object(materialize, "_made", recording):
            initial(Mlp, inputs, {"dp": 2}, parallel.fsdp())
        self.assertEqual(sorted(set(sizes)), [32, 68, 144])


class Normed2(Normed):
    """Knows how to fill its own buffer."""

    def reset_parameters(self) -> None:
        self.seen.zero_()


class TestHuggingFace(unittest.TestCase):

    def test_llama(self) -> None:
        eager = MODELS["llama"]()[0]
        inputs = {"input_ids": tokens(), "labels": tokens()}
        found = initial(lambda: MODELS["llama"]()[0], inputs, {"dp": 2},
                        parallel.fsdp())
        for name, buffer in eager.named_buffers():
            self.assertTrue(torch.equal(found[name], buffer), name)
        for name, parameter in eager.named_parameters():
            expected = float(
                parameter.detach().std()) if parameter.numel() > 1 else 0
            self.assertAlmostEqual(float(found[name].std()),
                                   expected,
                                   delta=3e-3,
                                   msg=name)


class Orthogonal(nn.Module):
    """One tensor depends on the values of another; one is assigned."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.empty(4, 4))
        self.g = nn.Parameter(torch.empty(4))
        self.w = nn.Parameter(torch.empty(3))

    def reset_parameters(self) -> None:
        nn.init.orthogonal_(self.v)
        self.g.data.copy_(2 * self.v.norm(dim=1))
        self.w.data = torch.full((3, ), 2.0, device=self.w.device)


class OwnScheme(nn.Module):
    """The convention of ``self.apply(self._init_weights)``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, 3.0)


def made(build: Any) -> dict[str, torch.Tensor]:
    """Initialised in one process, by name."""
    with torch.device("meta"):
        structure = skeleton(build())
    slots = slots_of(structure)
    names = {
        id(t): n
        for n, t in (*structure.named_parameters(), *structure.named_buffers())
    }
    return {
        names[id(shadow)]: value.detach()
        for pairs in materialize.initialised(
            structure, set(slots), slots, seed=1, device=torch.device("cpu"))
        for shadow, value in pairs
    }


class TestInitialisers(unittest.TestCase):

    def test_dependent_and_assigned_values(self) -> None:
        found = made(Orthogonal)
        torch.testing.assert_close(found["v"] @ found["v"].T, torch.eye(4))
        torch.testing.assert_close(found["g"], torch.full((4, ), 2.0))
        self.assertEqual(found["w"].tolist(), [2.0] * 3)

    def test_own_scheme_before_the_modules_own(self) -> None:
        found = made(OwnScheme)
        self.assertEqual(set(found["linear.weight"].flatten().tolist()), {3.0})
        self.assertLess(float(found["linear.bias"].abs().max()), 0.51)
        self.assertEqual(float(found["attention.in_proj_bias"].sum()), 0.0)

    def test_torch_draws_on_as_if_nothing_happened(self) -> None:
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        made(Orthogonal)
        self.assertTrue(torch.equal(torch.rand(1), expected))

    def test_hugging_face_models_as_in_eager(self) -> None:
        for name in ("gpt2", "gemma2", "mixtral", "bert", "modernbert", "t5",
                     "vit", "convnext"):
            eager = MODELS[name]()[0]
            found = made(lambda: MODELS[name]()[0])  # noqa: B023
            for key, value in (*eager.named_parameters(),
                               *eager.named_buffers()):
                with self.subTest(model=name, tensor=key):
                    self.compare(found[key].double(), value.detach().double())

    def compare(self, found: torch.Tensor, expected: torch.Tensor) -> None:
        if torch.equal(found, expected):
            return
        self.assertGreater(expected.numel(), 3)
        spread = float(expected.std())
        self.assertGreater(spread, 0.0)
        self.assertAlmostEqual(float(found.std()), spread, delta=0.35 * spread)


if __name__ == "__main__":
    unittest.main()
