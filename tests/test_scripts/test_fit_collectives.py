from __future__ import annotations

import dataclasses
import unittest
from typing import Any

from planner.cluster import axis_link, load_cluster
from planner.cost.collective import collective_time_s
from scripts.fit_collectives import fit_fabrics, read_points


def _row(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "id": "coll-0",
        "source": {
            "name": "made up"
        },
        "hardware": {
            "gpu": "A100",
            "gpus_per_node": 8,
            "nodes": 1
        },
        "op": "all_gather",
        "ranks": 8,
        "columns": ["size_bytes", "time_us"],
        "data": [[8 * 2**20, 100.0]]
    }
    return {**plain, **changes}


class TestPoints(unittest.TestCase):

    def test_sizes_times_and_rates(self) -> None:
        point, = read_points([_row()])
        self.assertEqual((point.fabric, point.kind, point.ranks),
                         ("nvlink3", "all_gather", 8))
        self.assertAlmostEqual(point.time_s, 1e-4)
        rate, = read_points(
            [_row(columns=["size_bytes", "busbw_GBps"], data=[[8e9, 100.0]])])
        self.assertAlmostEqual(rate.time_s, 8e9 * 7 / 8 / 100e9)

    def test_fabrics_between_nodes(self) -> None:
        point, = read_points([
            _row(ranks=16,
                 hardware={
                     "gpu": "A100",
                     "gpus_per_node": 8,
                     "nodes": 2,
                     "inter_link": "EFA v1 4 x 100 Gb/s"
                 })
        ])
        self.assertEqual(point.fabric, "efa-v1")
        link = point.cluster.tiers[-1].link
        self.assertAlmostEqual(link.bandwidth_bytes_per_s, 6.25e9)

    def test_rows_without_hardware_are_left_out(self) -> None:
        self.assertEqual(read_points([_row(hardware={"notes": "?"})]), [])


class TestFit(unittest.TestCase):

    def test_made_up_links_are_found_again(self) -> None:
        cluster = load_cluster("a100-80g").with_sizes(1, 8)
        truth = dataclasses.replace(cluster.tiers[0].link,
                                    latency_s=3e-6,
                                    overhead_s=2e-5,
                                    efficiency=0.7,
                                    segment_s=4e-6,
                                    switch_reduction=0.0)
        tiers = (dataclasses.replace(cluster.tiers[0],
                                     link=truth), *cluster.tiers[1:])
        axis = axis_link(dataclasses.replace(cluster, tiers=tiers), (8, ), 0)
        rows = [
            _row(id=f"coll-{kind}",
                 op=kind,
                 data=[[2.0**n, 1e6 * collective_time_s(kind, 2.0**n, axis)]
                       for n in range(10, 34, 2)])
            for kind in ("all_gather", "all_reduce", "all_to_all")
        ]
        found = fit_fabrics(read_points(rows))["nvlink3"]
        for name in ("latency_s", "overhead_s", "efficiency", "segment_s"):
            with self.subTest(name):
                self.assertAlmostEqual(found[name] / getattr(truth, name),
                                       1,
                                       delta=0.05)


if __name__ == "__main__":
    unittest.main()
