"""Layouts for rows between others, from those at both ends."""

from __future__ import annotations

import dataclasses
import functools
import unittest

import numpy as np

from planner.cluster import load_cluster
from planner.cluster.device import Coefficient, DeviceKind
from planner.ir.layout import R
from planner.ir.layouts import ProgramLayout
from planner.joint.between import Between
from planner.joint.optimistic import Optimistic
from planner.joint.search import JointSearch
from planner.joint.space import Cell
from planner.joint.tables import BlockTable
from planner.planning import Planning
from planner.rules.ring import RING_LOWERINGS
from tests.test_planner.test_planning.programs import large_llama, planning_on

_FEWER, _ROWS, _MORE = (Cell(tp=4, rows=n) for n in (2, 4, 8))


@functools.cache
def searched() -> JointSearch:
    """Three layers of Llama 8B with 16 rows, on 8 devices."""
    return JointSearch(planning_on(large_llama(), 8), 8)


@functools.cache
def table(cell: Cell) -> BlockTable:
    """Of a cell, its layouts taken from others where that is sound."""
    scores = searched().scores(cell)
    assert scores is not None
    return scores.table


def entries(of: BlockTable) -> np.ndarray:
    """Times and bytes of all blocks."""
    return np.array([
        of.forward_s, of.input_s, of.weight_s, of.once_s, of.saved_bytes,
        of.parameter_bytes
    ])


class TestBetween(unittest.TestCase):

    def test_layouts_of_both_ends_are_the_best_between(self) -> None:
        for cell in (_FEWER, _MORE):
            table(cell)
        found = searched().between.around(_ROWS)
        self.assertEqual(found, (_FEWER, _MORE))
        alone = JointSearch(searched().planning, 8).scores(_ROWS)
        assert alone is not None
        np.testing.assert_allclose(entries(table(_ROWS)),
                                   entries(alone.table),
                                   rtol=1e-9)

    def test_line_is_no_more_than_the_table(self) -> None:
        between = straight(16)
        known = Optimistic(table(Cell(rows=16)), between)
        loose_s = known.table(_ROWS).work_s
        for cell in (_FEWER, _MORE):
            between.learn(cell, table(cell).layout)
            known.learn(table(cell))
        self.assertTrue(known.knows(_ROWS))
        found, own = known.table(_ROWS), table(_ROWS)
        self.assertTrue((found.work_s <= own.work_s * (1 + 1e-9)).all())
        self.assertGreater(found.work_s.sum(), loose_s.sum())
        self.assertGreater(found.work_s.sum(), 0.99 * own.work_s.sum())

    def test_line_over_an_axis_that_cuts_sequences(self) -> None:
        fewer, rows, more = (Cell(cp=2, tp=2, rows=n) for n in (1, 4, 8))
        between = straight(16)
        known = Optimistic(table(Cell(rows=16)), between)
        for cell in (fewer, more):
            between.learn(cell, table(cell).layout)
            known.learn(table(cell))
        self.assertTrue(known.knows(rows))
        found, own = known.table(rows), table(rows)
        self.assertLessEqual(found.work_s.sum(), own.work_s.sum() * (1 + 1e-9))
        self.assertGreater(found.work_s.sum(), 0.98 * own.work_s.sum())

    def test_ends_are_laid_out_first(self) -> None:
        between = straight(16)
        self.assertEqual(between.instead(_ROWS), _ROWS)
        between.learn(_ROWS, table(_ROWS).layout)
        rows = [between.instead(_ROWS._replace(rows=n)).rows for n in (2, 8)]
        self.assertEqual(rows, [1, 8])

    def test_line_of_other_layouts_is_no_more_either(self) -> None:
        between = straight(16)
        known = Optimistic(table(Cell(rows=16)), between)
        for cell in (_FEWER, _MORE):
            between.learn(cell, unlike(table(cell).layout, cell.rows))
            known.learn(table(cell))
        self.assertFalse(between.settles(_ROWS))
        found, own = known.table(_ROWS), table(_ROWS)
        self.assertTrue((found.work_s < own.work_s).all())
        self.assertGreater(found.work_s.sum(), 0.98 * own.work_s.sum())

    def test_the_whole_batch_and_what_bends_are_left_out(self) -> None:
        for between in (straight(8), Between(16, _always)):
            for cell in (_FEWER, _MORE):
                between.learn(cell, table(cell).layout)
            self.assertIsNone(between.around(_ROWS))

    def test_what_bends(self) -> None:
        between = searched().between
        layout = table(_ROWS).layout
        assert layout is not None
        self.assertFalse(between.bends(layout))
        self.assertTrue(between.bends(with_a_ring(layout)))

    def test_caches_bend(self) -> None:
        cluster = load_cluster("h100-sxm").resized(8)
        cached = dataclasses.replace(cluster, device=_cached(cluster.device))
        search = JointSearch(Planning(large_llama(), cached), 8)
        layout = table(_ROWS).layout
        assert layout is not None
        self.assertTrue(search.between.bends(layout))


def _always(_: object) -> bool:
    return True


def _never(_: object) -> bool:
    return False


def straight(batch: int) -> Between:
    """Of cells none of which bends."""
    return Between(batch, _never)


def unlike(layout: ProgramLayout | None, rows: int) -> ProgramLayout:
    """The same with a value that only layouts for so many rows have."""
    assert layout is not None
    name, cls = next(iter(layout.classes.items()))
    hubs = {**cls.hubs, f"of {rows}": (R, ) * len(layout.mesh.sizes)}
    return dataclasses.replace(layout,
                               classes={
                                   **layout.classes, name:
                                   dataclasses.replace(cls, hubs=hubs)
                               })


def with_a_ring(layout: ProgramLayout) -> ProgramLayout:
    """The same with one call that goes round an axis."""
    name, cls = next(iter(layout.classes.items()))
    label, call = next(iter(cls.calls.items()))
    ring = dataclasses.replace(call.options[0],
                               lowering=sorted(RING_LOWERINGS)[0])
    call = dataclasses.replace(call, options=(ring, *call.options[1:]))
    cls = dataclasses.replace(cls, calls={**cls.calls, label: call})
    return dataclasses.replace(layout, classes={**layout.classes, name: cls})


def _cached(device: DeviceKind) -> DeviceKind:
    return dataclasses.replace(device,
                               coefficients=(*device.coefficients,
                                             Coefficient(name="cache_bytes",
                                                         value=1e6,
                                                         source="made up")))


if __name__ == "__main__":
    unittest.main()
