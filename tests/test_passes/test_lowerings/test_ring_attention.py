"""Ring attention against attention on whole tensors."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from passes.collectives import AxisRef
from passes.differentiate import Joint, differentiate
from passes.insert_collectives import insert_collectives
from passes.localize_shapes import localize_shapes
from passes.lowerings.attention_kernels import Tile, attend, attend_backward
from passes.lowerings.zigzag import from_zigzag, to_zigzag
from passes.overlap import overlap
from passes.split_backward import split_backward
from planner.ir.layouts import CallLayout
from planner.ir.mesh import MeshSpec
from tests.test_passes.simulated import on_mesh
from tests.test_passes.test_lowerings.calls import (ONE, Call,
                                                    check_lowerings_on)

_SDPA = torch.ops.aten.scaled_dot_product_attention.default
_THREE, _FOUR = MeshSpec(("x", ), (3, )), MeshSpec(("x", ), (4, ))
_TWO_AXES = MeshSpec(("x", "y"), (2, 2))
_C10D = torch.ops._c10d_functional


def real(*shape: int,
         dtype: torch.dtype = torch.float64,
         grad: bool = True) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=grad)


def call(*args: Any, **kwargs: Any) -> Call:
    return Call(op=_SDPA, args=args, kwargs=kwargs)


def heads(count: int = 3, *, dtype: torch.dtype = torch.float64) -> Any:
    return [real(2, 4, 24, 8, dtype=dtype) for _ in range(count)]


class Seeded(unittest.TestCase):

    def setUp(self) -> None:
        torch.manual_seed(0)

    def check(self,
              lowering: str,
              *args: Any,
              meshes: tuple[MeshSpec, ...] = (ONE, _THREE),
              tolerance: float = 1e-10,
              **kwargs: Any) -> None:
        for mesh in meshes:
            check_lowerings_on(self,
                               call(*args, **kwargs),
                               lowering,
                               mesh,
                               tolerance=tolerance)


class TestFull(Seeded):

    def test_ranks(self) -> None:
        self.check("ring_attention", *heads(), meshes=(ONE, _THREE, _FOUR))

    def test_other_keys_than_queries(self) -> None:
        self.check("ring_attention", real(2, 4, 24, 8), real(2, 4, 12, 8),
                   real(2, 4, 12, 6))

    def test_grouped_heads_and_scale(self) -> None:
        self.check("ring_attention",
                   real(2, 4, 24, 8),
                   real(2, 2, 24, 8),
                   real(2, 2, 24, 8),
                   enable_gqa=True,
                   scale=0.3)

    def test_beside_another_axis(self) -> None:
        self.check("ring_attention", *heads(), meshes=(_TWO_AXES, ))


class TestCausal(Seeded):

    def test_contiguous(self) -> None:
        self.check("ring_attention_causal",
                   *heads(),
                   None,
                   0.0,
                   True,
                   meshes=(ONE, _THREE, _FOUR))

    def test_zigzag(self) -> None:
        self.check("ring_attention_zigzag",
                   *heads(),
                   None,
                   0.0,
                   True,
                   meshes=(ONE, _THREE, _FOUR, _TWO_AXES))

    def test_grouped_heads_and_other_width(self) -> None:
        for lowering in ("ring_attention_causal", "ring_attention_zigzag"):
            self.check(lowering,
                       real(2, 4, 24, 8),
                       real(2, 2, 24, 8),
                       real(2, 2, 24, 6),
                       None,
                       0.0,
                       True,
                       enable_gqa=True,
                       scale=0.3)

    def test_dtypes(self) -> None:
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, .06)):
            self.check("ring_attention_zigzag",
                       *heads(dtype=dtype),
                       None,
                       0.0,
                       True,
                       meshes=(_THREE, ),
                       tolerance=tolerance)


class TestMasks(Seeded):

    SHAPES = ((2, 1, 24, 24), (1, 4, 24, 24), (24, 24), (2, 1, 1, 24), (2, 4,
                                                                        24, 1))

    def test_truth_values(self) -> None:
        for shape in self.SHAPES:
            mask = torch.rand(shape) > 0.4
            mask[..., 0] = True
            self.check("ring_attention", *heads(), mask, meshes=(_THREE, ))

    def test_biases(self) -> None:
        for shape in self.SHAPES:
            bias = real(*shape, grad=False)
            self.check("ring_attention", *heads(), bias, meshes=(_THREE, ))

    def test_learned_biases(self) -> None:
        for shape in self.SHAPES:
            self.check("ring_attention",
                       *heads(),
                       real(*shape),
                       meshes=(_THREE, ))

    def test_rows_that_see_no_key_of_a_block_or_of_all(self) -> None:
        mask = torch.ones(2, 1, 24, 24, dtype=torch.bool).tril()
        mask[:, :, 5] = False
        self.check("ring_attention", *heads(), mask)
        self.check("ring_attention", real(2, 4, 24, 8), real(2, 4, 24, 8),
                   real(2, 4, 24, 6), mask)


class TestZigzag(unittest.TestCase):

    def test_chunks(self) -> None:
        for size in (1, 2, 3, 4, 5):
            mesh = MeshSpec(("x", ), (size, ))

            def work(rank: int, groups: Any) -> tuple[list[int], bool]:
                axis, = groups.axes
                rows = torch.arange(2.0 * rank, 2 * rank + 2)[:, None]
                moved = to_zigzag((rows, 10 * rows.repeat(1, 3)), axis)
                home = from_zigzag(moved, axis)
                same = torch.equal(home[0], rows) and torch.equal(
                    moved[1], 10 * moved[0].repeat(1, 3))
                return moved[0].flatten().int().tolist(), same

            self.assertEqual(on_mesh(mesh, work),
                             [([r, 2 * size - 1 - r], True)
                              for r in range(size)])


def traced(found: Call, lowering: str) -> Joint:
    """The joint graph of one of four ranks."""
    chosen = CallLayout(options=found.choices(_FOUR, lowering)[0])
    block, layout = found.block(chosen)
    graph = localize_shapes(insert_collectives(block, layout, _FOUR, {}),
                            _FOUR)
    return differentiate(graph, [AxisRef(name="x", size=4, coordinate=1)],
                         device=torch.device("cpu"),
                         specs=[(n.meta["spec"], layout.hubs[n.name])
                                for n in block.placeholders])


class TestOverlap(unittest.TestCase):
    """Transfers are started before the attention that hides them."""

    def test_forward_and_backward(self) -> None:
        joint = traced(call(*heads(), None, 0.0, True),
                       "ring_attention_zigzag")
        split = split_backward(joint)
        assert split.backward is not None
        for graph in (split.forward, split.backward):
            for after in (graph, overlap(graph)):
                self._check_hidden(after)

    def _check_hidden(self, graph: fx.Graph) -> None:
        hidden, waiting = 0, set()
        for node in graph.nodes:
            if node.target is _C10D.all_to_all_single.default:
                waiting.add(node)
            elif node.target is _C10D.wait_tensor.default:
                waiting.discard(node.args[0])
            elif "flash_attention" in str(node.target):
                hidden += bool(waiting)
        # All steps but the last of four; the backward's also hides
        # gradients on their way.
        self.assertGreaterEqual(hidden, 3)


class _Names(TorchDispatchMode):
    """Notes the operators' names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self,
                           func: Any,
                           types: Any,
                           args: Any = (),
                           kwargs: Any = None) -> Any:
        self.found.append(func._opname)
        return func(*args, **kwargs or {})


class TestKernels(unittest.TestCase):
    """Which kernels a device that is not here would run, by fakes."""

    def kernels(self, dtype: torch.dtype, width: int, *,
                masked: bool) -> list[str]:
        with FakeTensorMode(), _Names() as names:
            query, key, value = (torch.empty(2,
                                             4,
                                             rows,
                                             wide,
                                             dtype=dtype,
                                             device="cuda")
                                 for rows, wide in ((40, 64), (24, 64),
                                                    (24, width)))
            mask = torch.empty(40, 24, dtype=torch.bool, device="cuda")
            tile = Tile(query=query,
                        key=key,
                        value=value,
                        mask=mask if masked else None,
                        causal=False,
                        scale=0.125)
            whole = attend(tile)
            self.assertEqual(whole.logsumexp.shape, (2, 4, 40))
            self.assertEqual(whole.output.shape, (2, 4, 40, width))
            grads = attend_backward(tile, whole, whole.output)
            self.assertEqual(grads.query.shape, query.shape)
            self.assertEqual(grads.key.shape, key.shape)
            self.assertEqual(grads.value.shape, value.shape)
        return [n for n in names.found if "attention" in n]

    def test_by_operands(self) -> None:
        flash, efficient = (f"_scaled_dot_product_{n}_attention"
                            for n in ("flash", "efficient"))
        for dtype, width, masked, kernel in ((torch.bfloat16, 64, False,
                                              flash), (torch.bfloat16, 32,
                                                       False, efficient),
                                             (torch.float32, 64, False,
                                              efficient), (torch.float32, 60,
                                                           False, None),
                                             (torch.float64, 64, False, None),
                                             (torch.float32, 64, True, None)):
            self.assertEqual(self.kernels(dtype, width, masked=masked),
                             [kernel, f"{kernel}_backward"] if kernel else [])


if __name__ == "__main__":
    unittest.main()
