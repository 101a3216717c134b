"""Points: their order, their groups, and that each has its work."""

from __future__ import annotations

from unittest import TestCase

import torch

from planner.profile.operations import OPERATIONS, runner, work_of
from planner.profile.point import Groups, Point
from planner.profile.points import all_groups, points_for


class TestOrder(TestCase):

    def test_no_row_twice(self) -> None:
        for device, size in (("cpu", 1), ("cpu", 4), ("cuda", 8)):
            rows = [p.row for p in points_for(device, size)]
            self.assertEqual(len(rows), len(set(rows)))

    def test_the_first_points_tell_something_of_everything(self) -> None:
        points = points_for("cpu", 4)
        kinds = [p.kind for p in points[:len(points) // 3]]
        self.assertEqual(kinds[0], "mm")
        for kind in ("interference", "alone_speedup", "lateness", "add",
                     "attention", "all_reduce", "all_to_all", "send"):
            self.assertIn(kind, kinds)

    def test_one_process_has_no_collectives(self) -> None:
        self.assertTrue(all(p.groups is None for p in points_for("cpu", 1)))

    def test_host_points_are_for_accelerators(self) -> None:
        kinds = {p.kind for p in points_for("cuda", 1)}
        self.assertLessEqual({"dispatch", "allocator"}, kinds)
        self.assertNotIn("dispatch", {p.kind for p in points_for("cpu", 1)})

    def test_messages_are_for_ranks_whose_host_computes(self) -> None:
        for device, size, expected in (("cpu", 1, 0), ("cpu", 4, 1), ("cuda",
                                                                      4, 0)):
            kinds = [p.kind for p in points_for(device, size)]
            self.assertEqual(kinds.count("messages"), expected)


class TestGroups(TestCase):

    def test_groups(self) -> None:
        self.assertEqual([str(g) for g in all_groups(4)],
                         ["1x4/1", "2x2/1", "2x2/0", "2x2/1 alone"])
        self.assertEqual(Groups(shape=(2, 4), axis=0).size, 2)

    def test_buffers_divide(self) -> None:
        for point in points_for("cpu", 6):
            if point.groups is not None:
                self.assertEqual(point.sizes[-1] % (4 * point.groups.size), 0)


class TestOperations(TestCase):

    def test_every_operation_runs_and_has_work(self) -> None:
        seen = set()
        for point in points_for("cpu", 1):
            if point.kind not in OPERATIONS:
                continue
            done = work_of(point)
            seen.add(point.kind)
            kernels = (done.backward_kernels
                       if point.backward else done.forward_kernels)
            self.assertGreater(kernels + (point.kind == "add"), 0, str(point))
        self.assertEqual(seen, set(OPERATIONS))

    def test_work(self) -> None:
        point = Point(kind="mm", sizes=(4, 8, 16), variant="tn")
        done = work_of(point)
        self.assertEqual(done.forward_flops, 2 * 4 * 8 * 16)
        self.assertEqual(done.forward_bytes, 4 * (32 + 128 + 64))
        self.assertEqual(done.backward_kernels, 0)
        backward = work_of(
            Point(kind="linear", sizes=(4, 8, 16), backward=True))
        self.assertEqual(backward.backward_kernels, 2)

    def test_runners(self) -> None:
        device = torch.device("cpu")
        product = runner(Point(kind="mm", sizes=(4, 8, 16), variant="tt"),
                         device)()
        self.assertEqual(product.shape, (4, 16))
        self.assertFalse(product.requires_grad)
        gradients = runner(
            Point(kind="embedding", sizes=(4, 8, 2), backward=True), device)
        self.assertEqual(gradients()[0].shape, (8, 2))
        self.assertEqual(gradients()[0].shape, (8, 2))  # runs again
