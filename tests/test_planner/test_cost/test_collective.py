from __future__ import annotations

import dataclasses
import unittest

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.cluster import AxisInfo, Link
from planner.cost.collective import (COLLECTIVES, all_gather_time_s,
                                     all_reduce_time_s, all_to_all_time_s,
                                     broadcast_time_s, collective_time_s,
                                     reduce_scatter_time_s, send_time_s,
                                     tiered_all_reduce_time_s)

_LINK = Link(latency_s=1e-6, bandwidth_bytes_per_s=1e9, overhead_s=1e-5)
_BIG = 1e9


def _links() -> st.SearchStrategy[Link]:
    return st.builds(Link,
                     latency_s=st.floats(0, 1e-3),
                     bandwidth_bytes_per_s=st.floats(1e6, 1e12),
                     overhead_s=st.floats(0, 1e-3),
                     segment_s=st.floats(0, 1e-3),
                     switch_reduction=st.sampled_from([0.0, 0.5, 1.0]))


class TestClosedForms(unittest.TestCase):

    def test_ring_all_reduce_of_a_large_tensor(self) -> None:
        self.assertAlmostEqual(all_reduce_time_s(_BIG, 4, _LINK),
                               1e-5 + 6e-6 + 1.5,
                               places=9)

    def test_tree_all_reduce_of_a_small_tensor(self) -> None:
        # 6 levels, up and down, two children each.
        self.assertAlmostEqual(all_reduce_time_s(1, 64, _LINK),
                               1e-5 + 24e-6 + 2e-9,
                               places=12)

    def test_all_to_all_is_under_way_to_all_at_once(self) -> None:
        self.assertAlmostEqual(all_to_all_time_s(_BIG, 4, _LINK),
                               1e-5 + 2e-6 + 0.75,
                               places=9)

    def test_gather_and_scatter(self) -> None:
        for time_s in (all_gather_time_s, reduce_scatter_time_s):
            with self.subTest(time_s.__name__):
                self.assertAlmostEqual(time_s(_BIG, 4, _LINK),
                                       1e-5 + 3e-6 + 0.75,
                                       places=9)

    def test_broadcast_and_send(self) -> None:
        self.assertAlmostEqual(broadcast_time_s(_BIG, 5, _LINK),
                               1e-5 + 3e-6 + 1.0,
                               places=9)
        self.assertAlmostEqual(send_time_s(_BIG, 5, _LINK),
                               1e-5 + 1e-6 + 1.0,
                               places=9)

    def test_all_reduce_is_reduce_scatter_and_all_gather(self) -> None:
        bare = Link(latency_s=1e-6, bandwidth_bytes_per_s=1e9)
        self.assertAlmostEqual(all_reduce_time_s(_BIG, 8, bare),
                               reduce_scatter_time_s(_BIG, 8, bare) +
                               all_gather_time_s(_BIG, 8, bare),
                               places=9)

    def test_efficiency_slows_bytes_only(self) -> None:
        half = Link(latency_s=1e-6,
                    bandwidth_bytes_per_s=2e9,
                    efficiency=0.5,
                    overhead_s=1e-5)
        self.assertEqual(all_gather_time_s(_BIG, 4, half),
                         all_gather_time_s(_BIG, 4, _LINK))


class TestProperties(unittest.TestCase):

    def test_monotone_in_size_and_free_for_one_rank(self) -> None:
        for kind, time_s in COLLECTIVES.items():
            with self.subTest(kind):
                times = [time_s(10.0**i, 8, _LINK) for i in range(10)]
                self.assertEqual(times, sorted(times))
                self.assertGreater(times[0], 0.0)
                self.assertEqual(time_s(_BIG, 1, _LINK), 0.0)

    def test_monotone_in_ranks(self) -> None:
        for kind, time_s in COLLECTIVES.items():
            times = [time_s(1e6, n, _LINK) for n in range(1, 33)]
            with self.subTest(kind):
                self.assertEqual(times, sorted(times))

    def test_bad_sizes(self) -> None:
        with self.assertRaisesRegex(ValueError, "got -1 bytes and 4 ranks"):
            all_reduce_time_s(-1, 4, _LINK)


class TestRegimes(unittest.TestCase):

    def test_segments_cost_the_square_root(self) -> None:
        # 1 s of bytes in segments of 1e-4 s: 1 + 2 * sqrt(1e-4).
        link = Link(latency_s=0.0, bandwidth_bytes_per_s=1e9, segment_s=1e-4)
        self.assertAlmostEqual(send_time_s(1e9, 2, link), 1.02, places=12)

    def test_a_reducing_switch_takes_the_tensor_once(self) -> None:
        link = Link(latency_s=0.0,
                    bandwidth_bytes_per_s=1e9,
                    switch_reduction=0.8)
        self.assertAlmostEqual(all_reduce_time_s(1e9, 8, link), 1.25)
        self.assertAlmostEqual(all_gather_time_s(1e9, 8, link), 0.875)

    def test_tiers_work_at_once(self) -> None:
        wire = Link(latency_s=0.0, bandwidth_bytes_per_s=1e9)
        fast = Link(latency_s=0.0, bandwidth_bytes_per_s=1e10)
        self.assertAlmostEqual(
            tiered_all_reduce_time_s(1e9, 16, wire, fast, 2), 1.0)
        self.assertAlmostEqual(
            tiered_all_reduce_time_s(1e9, 32, wire, fast, 4), 2.0)
        self.assertAlmostEqual(
            tiered_all_reduce_time_s(1e9, 16, fast, wire, 2), 1.75)

    def test_arrays_give_what_numbers_give(self) -> None:
        sizes = np.array([1.0, 1e6, 1e9])
        for kind, time_s in COLLECTIVES.items():
            with self.subTest(kind):
                self.assertEqual(
                    time_s(sizes, 8, _LINK).tolist(),
                    [time_s(s, 8, _LINK) for s in sizes.tolist()])

    @given(st.sampled_from(sorted(COLLECTIVES)), st.floats(0, 1e11),
           st.floats(1, 10), st.integers(2, 512), _links())
    def test_more_bytes_are_never_faster(self, kind: str, size_bytes: float,
                                         factor: float, ranks: int,
                                         link: Link) -> None:
        time_s = COLLECTIVES[kind]
        self.assertLessEqual(time_s(size_bytes, ranks, link),
                             time_s(size_bytes * factor, ranks, link))

    @given(st.sampled_from(sorted(COLLECTIVES)), st.floats(0, 1e11),
           st.floats(1, 10), st.integers(2, 512), _links())
    def test_a_faster_link_is_never_slower(self, kind: str, size_bytes: float,
                                           factor: float, ranks: int,
                                           link: Link) -> None:
        time_s = COLLECTIVES[kind]
        faster = dataclasses.replace(
            link,
            latency_s=link.latency_s / factor,
            bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * factor)
        self.assertLessEqual(time_s(size_bytes, ranks, faster),
                             time_s(size_bytes, ranks, link) * (1 + 1e-12))


class TestByAxis(unittest.TestCase):

    def test_each_kind_takes_its_link(self) -> None:
        slow = Link(latency_s=0.0, bandwidth_bytes_per_s=1e6)
        axis = AxisInfo(size=2, link=_LINK, exchange=slow, point=slow)
        for kind in COLLECTIVES:
            link = slow if kind in ("all_to_all", "send") else _LINK
            with self.subTest(kind):
                self.assertEqual(collective_time_s(kind, 1e6, axis),
                                 COLLECTIVES[kind](1e6, 2, link))

    def test_one_link_for_all(self) -> None:
        axis = AxisInfo(size=2, link=_LINK)
        self.assertEqual(collective_time_s("send", 1e6, axis),
                         send_time_s(1e6, 2, _LINK))

    def test_factors_are_by_kind(self) -> None:
        factored = dataclasses.replace(_LINK, factors=(("send", 3.0), ))
        axis = AxisInfo(size=2, link=factored)
        plain = AxisInfo(size=2, link=_LINK)
        for kind, factor in (("send", 3.0), ("all_reduce", 1.0)):
            self.assertAlmostEqual(
                collective_time_s(kind, 1e6, axis),
                factor * collective_time_s(kind, 1e6, plain))

    def test_unknown_kind(self) -> None:
        with self.assertRaisesRegex(ValueError, "did you mean all_reduce"):
            collective_time_s("allreduce", 1, AxisInfo(size=2, link=_LINK))


if __name__ == "__main__":
    unittest.main()
