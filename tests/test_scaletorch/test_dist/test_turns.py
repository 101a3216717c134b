"""Ranks one after another."""

from __future__ import annotations

import unittest

from scaletorch import dist


class TestTurns(unittest.TestCase):

    def test_main_goes_first(self) -> None:
        seen: list[int] = []

        def body(rank: int) -> None:
            with dist.main_first(dist.init()):
                seen.append(rank)

        dist.run_ranks(3, body)
        self.assertEqual(seen[0], 0)
        self.assertEqual(sorted(seen), [0, 1, 2])

    def test_every_rank_in_its_turn(self) -> None:
        seen: list[int] = []

        def body(rank: int) -> None:
            with dist.in_order():
                seen.append(rank)

        dist.run_ranks(4, body)
        self.assertEqual(seen, [0, 1, 2, 3])

    def test_a_failure_lets_the_others_go(self) -> None:
        for turn in ("main_first", "in_order"):

            def body(rank: int, turn: str = turn) -> str:
                block = (dist.main_first(dist.init())
                         if turn == "main_first" else dist.in_order())
                try:
                    with block:
                        if rank == 0:
                            raise OSError("no space")
                except (OSError, RuntimeError) as error:
                    return f"{type(error).__name__}: {error}"
                return "ran"

            found = dist.run_ranks(3, body)
            self.assertEqual(found[0], "OSError: no space")
            self.assertEqual(
                found[1:],
                [f"RuntimeError: {turn} failed on rank 0: OSError: no space"] *
                2)


if __name__ == "__main__":
    unittest.main()
