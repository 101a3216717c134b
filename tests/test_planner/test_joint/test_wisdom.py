"""What people found out reappears in the joint search without being told."""

from __future__ import annotations

import dataclasses
import unittest

from planner.joint.space import AXES, Point, Space
from tests.test_planner.test_joint.made_up import MadeUp, search, two_nodes

GIB = float(2**30)


def layers(count: int, **options: float) -> MadeUp:
    """Alike blocks of 3 ms for a row, with half a GiB of parameters."""
    return MadeUp(forward_s=(1e-3, ) * count,
                  input_s=(1e-3, ) * count,
                  weight_s=(1e-3, ) * count,
                  parameter_bytes=(GIB / 2, ) * count,
                  saved_bytes=(GIB / 64, ) * count,
                  start_s=options.get("start_s", 0.0))


def given(**sizes: int) -> dict[str, int]:
    return {n: sizes.get(n, 1) for n in AXES}


def best(blocks: MadeUp,
         space: Space,
         rate: float = 1e12,
         room: float = float("inf")) -> Point:
    found = search(blocks, space, two_nodes(8, rate), room).found
    return min((f for f in found if f.memory_bytes <= room),
               key=lambda f: f.run_s).point


class TestBubble(unittest.TestCase):

    def test_more_micro_batches(self) -> None:
        space = Space(ranks=4,
                      batch=64,
                      blocks=4,
                      fixed=given(pp=4),
                      schedules=(("1f1b", 1), ),
                      recompute=False)
        self.assertEqual(best(layers(4), space).microbatches, 64)
        # Up to where starting each costs more than the bubble.
        slow = best(layers(4, start_s=2e-3), space).microbatches
        self.assertTrue(4 < slow < 64, slow)

    def test_interleaving_where_the_bubble_bites(self) -> None:

        def gain(batch: int) -> float:
            plain_s, interleaved_s = (search(
                layers(8),
                Space(ranks=4,
                      batch=batch,
                      blocks=8,
                      fixed=given(pp=4),
                      schedules=(schedule, ),
                      recompute=False), two_nodes(8, 1e12)).best_s
                                      for schedule in (("1f1b", 1),
                                                       ("interleaved1f1b", 2)))
            return 1 - interleaved_s / plain_s

        self.assertGreater(gain(4), 0.2)
        self.assertLess(gain(64), 0.05)


class TestMemory(unittest.TestCase):

    def _chosen(self, room: float) -> Point:
        space = Space(ranks=8,
                      batch=8,
                      blocks=4,
                      fixed=given(dp=8),
                      recompute=False)
        blocks = dataclasses.replace(layers(4), saved_bytes=(GIB, ) * 4)
        return best(blocks, space, room=room * GIB)

    def test_shards_what_nearly_fits(self) -> None:
        # Parameters and state take 6 GiB, or an eighth of that beside whole
        # parameters, of all blocks or of one; what is saved takes 4.
        self.assertEqual(self._chosen(16).sharding, "ddp")
        self.assertEqual(self._chosen(7).sharding, "zero1")
        self.assertEqual(self._chosen(5.5).sharding, "fsdp")

    def test_recomputes_only_where_it_must(self) -> None:
        blocks = MadeUp(forward_s=(1e-3, ) * 4,
                        input_s=(1e-3, ) * 4,
                        weight_s=(1e-3, ) * 4,
                        parameter_bytes=(1.0, ) * 4,
                        saved_bytes=(GIB, ) * 4)
        space = Space(ranks=1, batch=1, blocks=4)
        self.assertFalse(best(blocks, space, room=4.1 * GIB).recompute)
        self.assertTrue(best(blocks, space, room=3.9 * GIB).recompute)


class TestLinks(unittest.TestCase):

    def test_stages_span_the_slower_links(self) -> None:
        space = Space(ranks=16,
                      batch=64,
                      blocks=8,
                      fixed=given(pp=2, dp=8),
                      recompute=False)
        self.assertEqual(best(layers(8), space, 1e9).order[0], "pp")

    def test_data_parallelism_spans_them_where_little_is_summed(self) -> None:
        blocks = MadeUp(forward_s=(1e-3, ) * 8,
                        input_s=(1e-3, ) * 8,
                        weight_s=(1e-3, ) * 8,
                        parameter_bytes=(1e3, ) * 8,
                        saved_bytes=(GIB, ) * 8)
        space = Space(ranks=16,
                      batch=64,
                      blocks=8,
                      fixed=given(pp=8, dp=2),
                      recompute=False)
        self.assertEqual(best(blocks, space, 1e9).order[0], "dp")


if __name__ == "__main__":
    unittest.main()
