"""Ranks notice differences and errors, all of them together."""

from __future__ import annotations

import unittest
from collections.abc import Callable

import torch
from torch.distributed.device_mesh import DeviceMesh

from scaletorch.runtime.agree import Agreement
from scaletorch.runtime.ranks import run_ranks


def message(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def agreement(*ranks: int) -> Agreement:
    return Agreement(DeviceMesh("cpu", list(ranks), mesh_dim_names=("dp", )))


class TestAgreement(unittest.TestCase):

    def test_order_of_the_mesh(self) -> None:

        def work(rank: int) -> tuple[list[int], int, bool]:
            between = agreement(1, 0)
            return (between.gather(rank * 10), between.first(rank),
                    between.is_first)

        self.assertEqual(run_ranks(2, work), [([10, 0], 1, False),
                                              ([10, 0], 1, True)])

    def test_signatures(self) -> None:

        def work(rank: int) -> tuple[str, str]:
            between = agreement(0, 1)
            long = "x" * 200
            return (message(lambda: between.check(("same", long))),
                    message(lambda: between.check((long, rank))))

        for same, differs in run_ranks(2, work):
            self.assertEqual(same, "")
            self.assertIn("ranks call the model with different inputs",
                          differs)
            self.assertIn("xx', 0)", differs)
            self.assertIn("rank 1 with ...", differs)
            self.assertLess(len(differs), 500)

    def test_what_was_started_is_settled_once(self) -> None:

        def work(rank: int) -> list[str]:
            between = agreement(0, 1)
            same, differs = between.start("same"), between.start(rank)
            return [message(c.settle) for c in (same, same, differs)
                    ] + [message(lambda: between.check("again"))]

        for first, second, differs, after in run_ranks(2, work):
            self.assertEqual((first, second, after), ("", "", ""))
            self.assertIn("rank 0 with 0, rank 1 with 1", differs)

    def test_the_first_ranks_seed(self) -> None:

        def work(rank: int) -> tuple[int, int]:
            del rank
            between = agreement(0, 1)
            return (between.check("a"), between.check("b", draws=True))

        (none, seed), other = run_ranks(2, work)
        self.assertEqual((none, seed), other)
        self.assertEqual(none, 0)
        self.assertGreater(seed, 0)

    def test_an_error_on_one_rank_is_raised_on_all(self) -> None:

        def fails(between: Agreement, rank: int, which: int) -> None:
            with between.together("testing"):
                if rank == which:
                    raise KeyError("mine")

        def work(rank: int) -> list[str]:
            between = agreement(0, 1)
            return [
                message(lambda: fails(between, rank, which))
                for which in (1, 7)
            ]

        self.assertEqual(
            run_ranks(2, work),
            [["RuntimeError: testing failed on rank 1: KeyError: 'mine'", ""],
             ["KeyError: 'mine'", ""]])


class TestRanks(unittest.TestCase):

    def test_results_in_order(self) -> None:
        self.assertEqual(run_ranks(3, lambda rank, x: rank + x, 5), [5, 6, 7])

    def test_a_failing_rank_is_named(self) -> None:

        def work(rank: int) -> None:
            if rank == 1:
                raise ValueError("only here")
            torch.distributed.barrier()

        with self.assertRaisesRegex(RuntimeError, "(?s)rank 1 failed.*only "
                                    "here"):
            run_ranks(2, work)


if __name__ == "__main__":
    unittest.main()
