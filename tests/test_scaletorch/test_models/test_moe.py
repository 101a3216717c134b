"""Mixtures of experts: sizes, routers and their losses."""

from __future__ import annotations

import unittest
from typing import Any

import torch

import scaletorch  # noqa: F401 (registers the experts operator)
from scaletorch import models
from scaletorch.models.moe_layers import Mixture, Router, RouterConfig

PUBLISHED = {
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen3-30b-a3b": 30_532_122_624,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_404_352,
}


def routed(tokens: int = 40, **fields: Any) -> tuple[Router, Any]:
    torch.manual_seed(0)
    router = Router(16, RouterConfig(**fields)).double()
    torch.nn.init.normal_(router.gate.weight)
    return router, router(torch.randn(tokens, 16, dtype=torch.float64))


class TestSizes(unittest.TestCase):

    def test_published_counts(self) -> None:
        for name, count in PUBLISHED.items():
            with self.subTest(name):
                self.assertEqual(models.parameter_count(name), count)

    def test_inputs_on_meta(self) -> None:
        with torch.device("meta"):
            model: Any = models.build("mixtral-8x7b", depth=1)
        inputs = model.example_inputs(2, 8)
        self.assertEqual(tuple(model(**inputs).loss.shape), ())
        self.assertEqual(tuple(model(inputs["tokens"]).logits.shape),
                         (2, 8, 32_000))


class TestRouter(unittest.TestCase):

    def test_weights_add_up(self) -> None:
        for kind in ("softmax", "sigmoid"):
            _, routes = routed(experts=8, active=3, kind=kind, scale=2.0)
            torch.testing.assert_close(
                routes.weights.sum(1),
                torch.full((40, ), 2.0, dtype=torch.float64))
            self.assertEqual(tuple(routes.index.shape), (40, 3))

    def test_only_the_best_groups_are_chosen_from(self) -> None:
        _, routes = routed(experts=16,
                           active=4,
                           kind="sigmoid",
                           groups=8,
                           active_groups=2)
        for row in routes.index // 2:
            self.assertEqual(len(set(row.tolist())), 2)

    def test_a_correction_moves_choices_and_not_weights(self) -> None:
        router, before = routed(experts=4,
                                active=1,
                                kind="sigmoid",
                                normalised=False,
                                corrected=True)
        assert router.bias is not None
        router.bias[3] = 10.0
        torch.manual_seed(1)
        x = torch.randn(40, 16, dtype=torch.float64)
        routes = router(x)
        self.assertEqual(routes.index.unique().tolist(), [3])
        self.assertLess(float(routes.weights.detach().max()), 1.0)
        del before

    def test_the_correction_favours_who_gets_less(self) -> None:
        router, routes = routed(experts=4,
                                active=1,
                                corrected=True,
                                correction_rate=0.1)
        load = torch.bincount(routes.index.flatten(), minlength=4)
        wanted = 0.1 * torch.sign(10.0 - load)
        assert router.bias is not None
        torch.testing.assert_close(router.bias, wanted.double())
        held = router.bias.clone()
        router.eval()(torch.randn(8, 16, dtype=torch.float64))
        self.assertTrue(torch.equal(router.bias, held))

    def test_losses(self) -> None:
        """Even scores: 1 for balance, the squared logarithm for z."""
        router, _ = routed(experts=4,
                           active=2,
                           balance_weight=0.5,
                           z_weight=0.25)
        torch.nn.init.zeros_(router.gate.weight)
        routes = router(torch.randn(6, 16, dtype=torch.float64))
        expected = 0.5 + 0.25 * torch.tensor(4.0).double().log()**2
        self.assertAlmostEqual(float(routes.penalty.detach()), float(expected),
                               6)

    def test_shared_experts_are_added(self) -> None:
        torch.manual_seed(0)
        mixture = Mixture(16, 8, RouterConfig(experts=4, active=2), shared=2)
        x = torch.randn(2, 5, 16)
        out, _ = mixture(x)
        shared = mixture.shared
        assert shared is not None
        self.assertEqual(shared.up.weight.shape[0], 16)
        mixture.shared = None
        torch.testing.assert_close(out, mixture(x)[0] + shared(x))


class TestConfig(unittest.TestCase):

    def test_what_does_not_fit(self) -> None:
        for text, fields in (
            ("kind must be one of softmax, sigmoid", dict(kind="tanh")),
            ("active = 5, but only 4 experts", dict(active=5)),
            ("groups = 3 does not divide", dict(groups=3)),
            ("active_groups = 2 of 1 groups", dict(active_groups=2)),
            ("a bias that is there only", dict(correction_rate=0.1)),
        ):
            with self.assertRaisesRegex(ValueError, text):
                RouterConfig(**{
                    "experts": 4,
                    "active": 1,
                    **fields
                })  # type: ignore[arg-type]


if __name__ == "__main__":
    unittest.main()
