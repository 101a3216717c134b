"""Every exchange over simulated ranks, with shapes that differ."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import torch

from scaletorch import dist

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64,
          torch.bool, torch.complex64, torch.float8_e4m3fn)


def each(size: int, body: Callable[..., Any], *args: Any) -> list[Any]:
    """What a body returns on every simulated rank."""
    return dist.run_ranks(size, body, *args)


def failing(size: int, body: Callable[[int], Any]) -> list[str]:
    """The error that every rank raises."""

    def caught(rank: int) -> str:
        try:
            body(rank)
        except (TypeError, ValueError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    return each(size, caught)


def own(rank: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Of another shape on every rank, and not dense."""
    numbers = torch.arange((rank + 1) * 4).reshape(4, rank + 1).T % 5
    return numbers.to(dtype)


class TestMoves(unittest.TestCase):

    def same(self, found: torch.Tensor, wanted: torch.Tensor) -> None:
        self.assertEqual(found.dtype, wanted.dtype)
        self.assertEqual(found.shape, wanted.shape)
        self.assertEqual(
            found.to(torch.complex64).tolist(),
            wanted.to(torch.complex64).tolist())

    def test_all_gather(self) -> None:
        for dtype in DTYPES:
            for rows in each(3, lambda r, t=dtype: dist.all_gather(own(r, t))):
                for rank, found in enumerate(rows):
                    self.same(found, own(rank, dtype))

    def test_nothing_to_send(self) -> None:
        rows = each(2, lambda r: dist.all_gather(torch.zeros(0, 3)))
        self.assertEqual([tuple(t.shape) for t in rows[1]], [(0, 3)] * 2)
        rows = each(2, lambda r: dist.all_to_all([torch.zeros(0)] * 2))
        self.assertEqual([tuple(t.shape) for t in rows[1]], [(0, )] * 2)

    def test_gather(self) -> None:
        found = each(3, lambda r: dist.gather(own(r), to=1))
        self.assertIsNone(found[0])
        self.assertIsNone(found[2])
        for rank in range(3):
            self.same(found[1][rank], own(rank))

    def test_broadcast(self) -> None:
        found = each(
            3, lambda r: dist.broadcast(own(2) if r == 2 else None, source=2))
        for tensor in found:
            self.same(tensor, own(2))
        scalar = each(2, lambda r: dist.broadcast(torch.tensor(3.5)))
        self.same(scalar[1], torch.tensor(3.5))

    def test_scatter(self) -> None:
        found = each(
            3, lambda r: dist.scatter([own(i) for i in range(3)]
                                      if r == 0 else None))
        for rank in range(3):
            self.same(found[rank], own(rank))

    def test_all_to_all(self) -> None:
        found = each(
            3, lambda r: dist.all_to_all([own(r) + 10 * i for i in range(3)]))
        for rank in range(3):
            for sender in range(3):
                self.same(found[rank][sender], own(sender) + 10 * rank)


class TestReductions(unittest.TestCase):

    def test_each_way(self) -> None:
        ways = {"sum": 6, "mean": 2, "max": 3, "min": 1, "product": 6}
        for how, wanted in ways.items():
            found = each(3,
                         lambda r, how=how: dist.all_reduce(
                             torch.full((2, 2), r + 1.0).T, how))
            self.assertEqual([t.tolist() for t in found],
                             [[[wanted] * 2] * 2] * 3)

    def test_a_view_is_reduced_right_and_left_alone(self) -> None:

        def body(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
            whole = torch.arange(6.).reshape(2, 3) + rank
            return dist.all_reduce(whole[:, ::2]), whole

        for rank, (found, whole) in enumerate(each(2, body)):
            self.assertEqual(found.tolist(), [[1, 5], [7, 11]])
            self.assertEqual(float(whole[0, 0]), rank)

    def test_reduce(self) -> None:
        found = each(2, lambda r: dist.reduce(torch.ones(1) * r, to=1))
        self.assertIsNone(found[0])
        self.assertEqual(found[1].tolist(), [1.0])


class TestErrors(unittest.TestCase):

    def check(self, text: str, body: Callable[[int], Any]) -> None:
        """Every rank fails in the same way; none waits."""
        for message in failing(2, body):
            self.assertRegex(message, text)

    def test_shapes(self) -> None:
        self.check(
            r"all_reduce \(sum\): rank 0 has torch.float32 \(1, 4\) on "
            r"cpu, rank 1 has .*\(2, 4\)", lambda r: dist.all_reduce(own(r)))

    def test_dtypes(self) -> None:
        self.check("give the same dtype",
                   lambda r: dist.all_gather(own(r, DTYPES[r])))

    def test_calls(self) -> None:
        self.check("rank 0 calls gather, rank 1 calls all_gather", lambda r:
                   (dist.gather, dist.all_gather)[r](own(r)))

    def test_no_tensor(self) -> None:
        self.check("rank 1 gave a float, which is no tensor",
                   lambda r: dist.all_reduce(own(0) if r == 0 else 1.0))
        self.check("rank 0 gave no tensor", lambda r: dist.broadcast())

    def test_ways(self) -> None:
        self.check("no reduction 'most'",
                   lambda r: dist.all_reduce(own(0), "most"))
        self.check("the mean of torch.int64",
                   lambda r: dist.all_reduce(torch.ones(1).long(), "mean"))
        self.check("sum of bool: use \"max\" for any",
                   lambda r: dist.all_reduce(torch.ones(1).bool()))

    def test_counts(self) -> None:
        self.check("gave 1 tensors for 2 ranks",
                   lambda r: dist.scatter([own(0)]))
        self.check("rank 1 gave 1 tensors for 2 ranks",
                   lambda r: dist.all_to_all([own(0)] * (2 - r)))
        self.check("gave nothing for 2 ranks", lambda r: dist.scatter_object())
        self.check("no rank 2 in a group of 2",
                   lambda r: dist.broadcast(own(0), source=2))

    def test_no_group(self) -> None:
        with self.assertRaisesRegex(RuntimeError, r"dist.init\(\) first"):
            dist.all_reduce(torch.ones(1))


class TestObjects(unittest.TestCase):

    def test_every_way(self) -> None:

        def body(rank: int) -> list[Any]:
            return [
                dist.all_gather_object({"r": rank}),
                dist.gather_object(rank, to=1),
                dist.broadcast_object(f"of {rank}", source=1),
                dist.scatter_object(["a", "b"] if rank == 0 else None)
            ]

        every = [{"r": 0}, {"r": 1}]
        self.assertEqual(
            each(2, body),
            [[every, None, "of 1", "a"], [every, [0, 1], "of 1", "b"]])


class TestNested(unittest.TestCase):

    def test_broadcast(self) -> None:
        value = {"a": [torch.ones(2), 3], "b": (torch.zeros(1, 2), "text")}
        for found in each(
                2, lambda r: dist.broadcast_nested(value if r == 0 else None)):
            self.assertEqual(str(found), str(value))

    def test_gather(self) -> None:

        def body(rank: int) -> Any:
            value = {"x": own(rank), "name": f"r{rank}"}
            return dist.all_gather_nested(value), dist.gather_nested(value)

        for rank, (every, some) in enumerate(each(2, body)):
            self.assertEqual([v["name"] for v in every], ["r0", "r1"])
            self.assertEqual(every[1]["x"].tolist(), own(1).tolist())
            self.assertEqual(some is None, rank != 0)

    def test_reduce(self) -> None:
        found = each(2, lambda r: dist.reduce_nested([torch.ones(2), r, None]))
        self.assertEqual(str(found[1]), str([torch.tensor([2., 2.]), 1, None]))

    def test_structures_differ(self) -> None:
        for message in failing(2, lambda r: dist.all_gather_nested([1] * r)):
            self.assertRegex(message, "rank 0 has the structure .* rank 1")


class TestSync(unittest.TestCase):

    def test_each_way(self) -> None:

        def body(rank: int) -> list[dict[str, float]]:
            values = {"loss": torch.tensor(rank + 1.0), "count": rank}
            return [
                dist.sync(values),
                dist.sync(values, {"count": "sum"}),
                dist.sync(values, "max"),
                dist.sync(dict(reversed(values.items())), "min")
            ]

        for found in each(2, body):
            self.assertEqual(found, [{
                "count": 0.5,
                "loss": 1.5
            }, {
                "count": 1,
                "loss": 1.5
            }, {
                "count": 1,
                "loss": 2
            }, {
                "count": 0,
                "loss": 1
            }])

    def test_names_and_numbers_are_checked(self) -> None:
        for message in failing(
                2, lambda r: dist.sync({
                    "a": 1.0,
                    **({
                        "b": 2
                    } if r else {})
                })):
            self.assertRegex(message, "rank 0 and rank 1 differ in b")
        for message in failing(
                2, lambda r: dist.sync({"a": torch.ones(2) if r else 1})):
            self.assertRegex(message, "a is a Tensor on rank 1")
        with self.assertRaisesRegex(RuntimeError, "no way 'most'"):
            each(1, lambda r: dist.sync({"a": 1.0}, "most"))


if __name__ == "__main__":
    unittest.main()
