"""Every lowering against the operator on whole tensors."""

from __future__ import annotations

import unittest
from typing import Any

import torch

from tests.test_passes.test_lowerings.calls import Call, check_lowerings

aten = torch.ops.aten
MEAN, SUM, NONE = 1, 2, 0


def real(*shape: int, grad: bool = True) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=grad)


def numbers(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape)


class Seeded(unittest.TestCase):

    def setUp(self) -> None:
        torch.manual_seed(0)

    def check(self,
              lowering: str,
              op: Any,
              *args: Any,
              outputs: Any = None,
              kwargs: Any = None,
              tolerance: float = 1e-9) -> None:
        check_lowerings(self,
                        Call(op=op, args=args, kwargs=kwargs or {}),
                        lowering,
                        outputs=outputs,
                        tolerance=tolerance)


class TestMeanPartial(Seeded):

    def test_means(self) -> None:
        self.check("mean_partial", aten.mean.default, real(4, 8))
        self.check("mean_partial", aten.mean.dim, real(4, 8), [1])
        self.check("mean_partial", aten.mean.dim, real(4, 8, 2), [0, -2], True)

    def test_losses(self) -> None:
        for op in (aten.mse_loss, aten.l1_loss, aten.huber_loss,
                   aten.smooth_l1_loss, aten.kl_div):
            self.check("mean_partial", op.default, real(4, 8),
                       real(4, 8, grad=False), MEAN)

    def test_weighted_loss(self) -> None:
        self.check("mean_partial",
                   aten.binary_cross_entropy_with_logits.default, real(4, 8),
                   torch.rand(4, 8, dtype=torch.float64), real(8, grad=False),
                   torch.rand(8, dtype=torch.float64), MEAN)

    def test_probabilities(self) -> None:
        target = torch.softmax(real(8, 4, grad=False), 1)
        self.check("mean_partial", aten.cross_entropy_loss.default, real(8, 4),
                   target)
        self.check("mean_partial", aten.cross_entropy_loss.default, real(8, 4),
                   target,
                   real(4, grad=False).abs(), MEAN, -100, 0.1)


class TestArange(Seeded):

    def test_ranges(self) -> None:
        self.check("arange_shard", aten.arange.default, 8)
        self.check("arange_shard", aten.arange.start, 4, 12)
        self.check("arange_shard", aten.arange.start_step, 4, 20, 2)
        self.check("arange_shard", aten.linspace.default, 0.0, 1.0, 8)


class TestRowBias(Seeded):

    def test_linear(self) -> None:
        for lead in ((4, ), (4, 2), ()):
            self.check("linear_row_bias", aten.linear.default, real(*lead, 8),
                       real(4, 8), real(4))

    def test_bias_by_name(self) -> None:
        self.check("linear_row_bias",
                   aten.linear.default,
                   real(4, 8),
                   real(4, 8),
                   kwargs={"bias": real(4)})

    def test_convolutions(self) -> None:
        for spatial, op in enumerate((aten.conv1d, aten.conv2d, aten.conv3d)):
            image, kernel = (5, ) * (spatial + 1), (3, ) * (spatial + 1)
            self.check("conv_row_bias", op.default, real(4, 4, *image),
                       real(4, 4, *kernel), real(4))

    def test_convolution_options(self) -> None:
        self.check("conv_row_bias", aten.conv2d.default, real(4, 4, 8, 8),
                   real(4, 4, 3, 3), real(4), [2, 2], [1, 1], [2, 2])
        self.check("conv_row_bias", aten.conv2d.padding, real(4, 4, 8, 8),
                   real(4, 4, 3, 3), real(4), [1, 1], "same")
        self.check("conv_row_bias",
                   aten.conv2d.default,
                   real(4, 4, 8, 8),
                   real(4, 4, 3, 3),
                   real(4),
                   kwargs={"stride": [2, 2]})

    def test_transposed(self) -> None:
        self.check("conv_row_bias", aten.conv_transpose2d.input,
                   real(4, 4, 5, 5), real(4, 8, 3, 3), real(8), [2, 2])
        self.check("conv_row_bias", aten.convolution.default, real(4, 4, 5, 5),
                   real(4, 8, 3, 3), real(8), [2, 2], [0, 0], [1, 1], True,
                   [1, 1], 1)


class TestEmbedding(Seeded):

    def test_tokens(self) -> None:
        self.check("embedding_vocab", aten.embedding.default, real(8, 4),
                   numbers(8, 4, 6))

    def test_padding(self) -> None:
        for padding in (0, 5, 7):
            self.check("embedding_vocab", aten.embedding.default, real(8, 4),
                       numbers(8, 4, 16), padding)

    def test_scaling_by_frequency(self) -> None:
        self.check("embedding_vocab", aten.embedding.default, real(8, 4),
                   numbers(8, 4, 16), 3, True)


class TestAttention(Seeded):

    def sdpa(self,
             *args: Any,
             heads: int = 2,
             queries: int = 8,
             keys: int = 8,
             **kwargs: Any) -> None:
        own = [
            real(2, 4, queries, 4),
            *(real(2, heads, keys, 4) for _ in range(2))
        ]
        self.check("sdpa_query_shard",
                   aten.scaled_dot_product_attention.default,
                   *own,
                   *args,
                   kwargs=kwargs)

    def test_causal(self) -> None:
        self.sdpa(None, 0.0, True, heads=4)
        self.sdpa(heads=4, is_causal=True)

    def test_causal_with_more_keys(self) -> None:
        self.sdpa(None, 0.0, True, heads=4, queries=4, keys=8)

    def test_grouped_heads_and_scale(self) -> None:
        self.sdpa(None, 0.0, True, scale=0.3, enable_gqa=True)


class TestCrossEntropy(Seeded):

    def entropies(
        self,
        lowering: str,
        *shape: int,
        ignored: bool = True,
        reductions: Any = (MEAN, ),
        rest: Any = ((), )
    ) -> None:
        for reduction in reductions:
            for more in rest:
                target = numbers(8, shape[0], *shape[2:])
                if ignored:
                    target.flatten()[::3] = -100
                weight, *others = more or (None, )
                self.check(lowering, aten.cross_entropy_loss.default,
                           real(*shape), target, weight, reduction, -100,
                           *others)

    def test_batch(self) -> None:
        self.entropies("cross_entropy_partial", 8, 8)
        self.entropies("cross_entropy_partial", 8, 8, ignored=False)

    def test_batch_weights_and_smoothing(self) -> None:
        weight = torch.rand(8, dtype=torch.float64)
        self.entropies("cross_entropy_partial",
                       8,
                       8,
                       rest=((weight, ), (weight, 0.2), (None, 0.2)))

    def test_batch_extra_dims(self) -> None:
        self.entropies("cross_entropy_partial", 4, 8, 4)

    def test_vocabulary(self) -> None:
        self.entropies("cross_entropy_vocab",
                       8,
                       8,
                       reductions=(NONE, MEAN, SUM))

    def test_vocabulary_extra_dims(self) -> None:
        self.entropies("cross_entropy_vocab",
                       4,
                       8,
                       4,
                       reductions=(NONE, MEAN, SUM))

    def test_vocabulary_of_narrow_numbers(self) -> None:
        """Summed as widely as torch does, in torch's dtype."""
        logits = real(8, 8, grad=False).to(torch.bfloat16).requires_grad_()
        self.check("cross_entropy_vocab",
                   aten.cross_entropy_loss.default,
                   logits,
                   numbers(8, 8),
                   None,
                   NONE,
                   tolerance=0.02)

    def test_one_sample(self) -> None:
        self.check("cross_entropy_vocab", aten.cross_entropy_loss.default,
                   real(8), torch.tensor(3))

    def test_negative_log_likelihood(self) -> None:
        weight = torch.rand(8, dtype=torch.float64)
        for op, shape in ((aten.nll_loss, (8, 8)),
                          (aten.nll_loss_nd, (4, 8, 4)), (aten.nll_loss2d,
                                                          (4, 8, 4, 2))):
            target = numbers(8, shape[0], *shape[2:])
            target.flatten()[::3] = 5
            for own in (None, weight):
                self.check("cross_entropy_partial", op.default, real(*shape),
                           target, own, MEAN, 5)


class TestBatchNorm(Seeded):

    def test_narrow_numbers(self) -> None:
        x = real(8, 4, grad=False).to(torch.bfloat16).requires_grad_()
        own = [torch.rand(4, requires_grad=True) for _ in range(2)]
        self.check("sync_batch_norm",
                   aten._native_batch_norm_legit_functional.default,
                   x,
                   *own,
                   torch.zeros(4),
                   torch.ones(4),
                   True,
                   0.1,
                   1e-5,
                   outputs=1,
                   tolerance=0.05)

    def norm(self, *shape: int, affine: bool = True) -> None:
        own = [real(shape[1]), real(shape[1])] if affine else [None, None]
        stats = [
            real(shape[1], grad=False),
            torch.rand(shape[1], dtype=torch.float64)
        ]
        self.check("sync_batch_norm",
                   aten._native_batch_norm_legit_functional.default,
                   real(*shape),
                   *own,
                   *stats,
                   True,
                   0.1,
                   1e-5,
                   outputs=1)
        self.check("sync_batch_norm",
                   aten._native_batch_norm_legit_functional.default,
                   real(*shape, grad=False),
                   *[x if x is None else x.detach()
                     for x in own], *stats, True, 0.1, 1e-5)

    def test_one_dim(self) -> None:
        self.norm(8, 4)
        self.norm(8, 4, 4)

    def test_images(self) -> None:
        self.norm(4, 4, 4, 2)

    def test_without_scale_and_shift(self) -> None:
        self.norm(8, 4, affine=False)

    def test_given_averages_alone(self) -> None:
        self.check("sync_batch_norm",
                   aten._native_batch_norm_legit_functional.default,
                   real(8, 4, grad=False), None, None, real(4, grad=False),
                   torch.rand(4, dtype=torch.float64), True, 0.5, 1e-3)


if __name__ == "__main__":
    unittest.main()
