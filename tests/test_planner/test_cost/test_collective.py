from __future__ import annotations

import unittest

from planner.cluster import AxisInfo, Link
from planner.cost.collective import (COLLECTIVES, all_gather_time_s,
                                     all_reduce_time_s, all_to_all_time_s,
                                     broadcast_time_s, collective_time_s,
                                     reduce_scatter_time_s, send_time_s)

_LINK = Link(latency_s=1e-6, bandwidth_bytes_per_s=1e9, overhead_s=1e-5)
_BIG = 1e9


class TestClosedForms(unittest.TestCase):

    def test_ring_all_reduce_of_a_large_tensor(self) -> None:
        self.assertAlmostEqual(all_reduce_time_s(_BIG, 4, _LINK),
                               1e-5 + 6e-6 + 1.5,
                               places=9)

    def test_tree_all_reduce_of_a_small_tensor(self) -> None:
        self.assertAlmostEqual(all_reduce_time_s(1, 64, _LINK),
                               1e-5 + 12e-6 + 2e-9,
                               places=12)

    def test_gather_scatter_exchange(self) -> None:
        for time_s in (all_gather_time_s, reduce_scatter_time_s,
                       all_to_all_time_s):
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

    def test_unknown_kind(self) -> None:
        with self.assertRaisesRegex(ValueError, "did you mean all_reduce"):
            collective_time_s("allreduce", 1, AxisInfo(size=2, link=_LINK))


if __name__ == "__main__":
    unittest.main()
