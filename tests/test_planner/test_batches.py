"""The global batch is searched: most work per second that fits."""

from __future__ import annotations

from unittest import TestCase

from planner.batches import batch_sizes, best_batch, search_batches
from planner.explain.batches import batches_report, batches_text
from planner.ir.errors import InfeasiblePlan
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from tests.test_planner.test_planning.programs import rows_of_mlp

_MESHES = [MeshSpec(("dp", ), (4, ))]


def _tight(limit_bytes: int, rows: int) -> Planning:
    return rows_of_mlp(rows).copied(memory_limit_bytes=limit_bytes)


class TestSizes(TestCase):

    def test_doubles(self) -> None:
        for sizes, tried in ((range(8, 9), [8]), (range(8, 33), [8, 16, 32]),
                             (range(8, 41), [8, 16, 32,
                                             40]), (range(6, 25,
                                                          6), [6, 12, 24])):
            self.assertEqual(batch_sizes(sizes), tried)

    def test_mistakes(self) -> None:
        for sizes in (range(0), range(0, 5), range(9, 3, -1)):
            with self.assertRaisesRegex(ValueError, "can't be of range"):
                batch_sizes(sizes)


class TestSearch(TestCase):

    def test_most_work_per_second(self) -> None:
        tried = search_batches(range(4, 17), rows_of_mlp, _MESHES)
        self.assertEqual([t.rows for t in tried], [4, 8, 16])
        best = best_batch(tried)
        self.assertEqual(best.rate, max(t.rate for t in tried))
        self.assertAlmostEqual(best.rate * 4 * best.found[0].time_s, best.rows)

    def test_that_fits(self) -> None:
        tried = search_batches(range(4, 17), rows_of_mlp, _MESHES)
        limits = [min(c.memory.total for c in t.found) for t in tried]
        self.assertEqual(limits, sorted(limits))
        fitting = search_batches(range(4, 17),
                                 lambda rows: _tight(limits[0], rows), _MESHES)
        self.assertFalse(fitting[-1].fits)
        self.assertEqual(best_batch(fitting).rows, 4)

    def test_says_why_none_fits(self) -> None:
        tried = search_batches(range(4, 9), lambda rows: _tight(100, rows),
                               _MESHES)
        with self.assertRaisesRegex(
                InfeasiblePlan, "with a batch of 4 or more: the smallest, "):
            best_batch(tried)

    def test_text(self) -> None:
        tried = search_batches(range(4, 9), rows_of_mlp, _MESHES)
        best = best_batch(tried)
        report = {
            "batches": batches_report(tried, best),
            "memory": {
                "limit_bytes": 10**9
            }
        }
        lines = list(batches_text(report))
        self.assertEqual(
            lines[0], f"global batch: {best.rows} gives most samples per "
            "second and device")
        self.assertEqual(len(lines), 4)
        self.assertEqual(sum("100.0%" in line for line in lines), 1)
