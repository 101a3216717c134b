from __future__ import annotations

import unittest

import torch
import torch.distributed as dist

from scaletorch.runtime.ranks import made_once, run_ranks


class TestRanks(unittest.TestCase):

    def test_threads_are_ranks_of_a_process_group(self) -> None:

        def work(rank: int) -> tuple[int, int, float]:
            x = torch.tensor(float(rank))
            dist.all_reduce(x)
            return dist.get_rank(), dist.get_world_size(), float(x)

        self.assertEqual(run_ranks(3, work), [(r, 3, 3.0) for r in range(3)])
        self.assertFalse(dist.is_initialized())

    def test_the_first_failure_is_told(self) -> None:

        def work(rank: int) -> None:
            if rank == 1:
                raise ValueError("of rank 1 alone")
            dist.barrier()

        with self.assertRaisesRegex(RuntimeError,
                                    "rank 1 failed:(?s:.*)of rank 1 alone"):
            run_ranks(2, work)


class TestMadeOnce(unittest.TestCase):

    def test_one_thread_makes_it_for_all(self) -> None:
        given = object()

        def work(rank: int) -> list[object]:
            del rank
            return [made_once("key", [given], object) for _ in range(2)]

        one, other = run_ranks(2, work)
        self.assertEqual(one, other)
        self.assertNotEqual(one[0], one[1])

    def test_what_differs_is_made_anew(self) -> None:
        shared = [1]

        def work(rank: int) -> list[object]:
            return [
                made_once(rank, [shared], object),
                made_once("key", [[1]], object),
                made_once("key", [shared] * (rank + 1), object)
            ]

        one, other = run_ranks(2, work)
        for a, b in zip(one, other, strict=True):
            self.assertIsNot(a, b)

    def test_a_process_makes_its_own(self) -> None:
        given = object()
        self.assertIsNot(made_once("key", [given], object),
                         made_once("key", [given], object))


if __name__ == "__main__":
    unittest.main()
