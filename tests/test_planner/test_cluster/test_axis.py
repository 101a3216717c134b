from __future__ import annotations

import dataclasses
import unittest

from planner.cluster import (AxisInfo, ClusterSpec, Coefficient, DeviceKind,
                             Link, Tier, axis_link)
from planner.cluster.axis import step_link
from planner.cluster.load import load_cluster


def _cluster() -> ClusterSpec:
    """4 nodes of 8; 100 B/s between devices, 10 B/s per device outside."""
    device = DeviceKind(name="chip",
                        memory_bytes=1,
                        memory_bandwidth_bytes_per_s=1.0,
                        peak_flops_per_s=(("float32", 1.0), ),
                        launch_overhead_s=0.0)
    inner = Link(latency_s=1.0, bandwidth_bytes_per_s=200.0, efficiency=0.5)
    outer = Link(latency_s=5.0, bandwidth_bytes_per_s=10.0)
    return ClusterSpec(name="toy",
                       device=device,
                       tiers=(Tier(name="node", size=8, link=inner),
                              Tier(name="fabric", size=4, link=outer)))


def _rates(info: AxisInfo) -> tuple[float, ...]:
    assert info.exchange is not None and info.point is not None
    return tuple(
        round(link.rate_bytes_per_s, 6)
        for link in (info.link, info.exchange, info.point))


class TestAxisLink(unittest.TestCase):

    def test_last_axis_is_innermost(self) -> None:
        inner = axis_link(_cluster(), (4, 8), 1)
        self.assertEqual((inner.size, inner.tier), (8, "node"))
        self.assertEqual(inner.link.latency_s, 1.0)
        self.assertEqual(_rates(inner), (100.0, 100.0, 100.0))

    def test_eight_groups_share_a_node_s_way_out(self) -> None:
        outer = axis_link(_cluster(), (4, 8), 0)
        self.assertEqual((outer.size, outer.tier, outer.num_sharing),
                         (4, "fabric", 8))
        self.assertEqual(outer.link.latency_s, 5.0)
        self.assertEqual(_rates(outer), (10.0, 10.0, 10.0))

    def test_one_group_uses_all_ways_out_of_its_nodes(self) -> None:
        whole = axis_link(_cluster(), (32, ), 0)
        ring, exchange, point = _rates(whole)
        self.assertEqual(whole.num_sharing, 1)
        self.assertEqual(ring, 80.0)
        # 24 of 31 peers are outside, at 10 B/s.
        self.assertAlmostEqual(exchange, 31 / (24 / 10.0), places=5)
        self.assertEqual(point, 10.0)

    def test_a_step_finds_links_slower(self) -> None:
        cluster = _cluster()
        self.assertEqual(step_link(cluster, (4, 8), 1),
                         axis_link(cluster, (4, 8), 1))
        shares = tuple(
            Coefficient(name=n, value=v, source="made up")
            for n, v in (("collective_share", 0.5), ("point_share", 0.8)))
        device = dataclasses.replace(cluster.device, coefficients=shares)
        found = step_link(dataclasses.replace(cluster, device=device), (4, 8),
                          1)
        self.assertEqual(_rates(found), (50.0, 50.0, 80.0))
        self.assertEqual(found.link.latency_s, 1.0)

    def test_several_axes_as_one(self) -> None:
        self.assertEqual(axis_link(_cluster(), (4, 8), (0, 1)),
                         axis_link(_cluster(), (32, ), 0))

    def test_strided_groups_with_two_members_in_a_node(self) -> None:
        info = axis_link(_cluster(), (8, 4), 0)
        self.assertEqual((info.num_sharing, _rates(info)[0]), (4, 20.0))

    def test_ragged_mesh_pays_for_the_group_that_crosses(self) -> None:
        info = axis_link(_cluster(), (2, 5), 1)
        self.assertEqual((info.tier, info.num_sharing), ("fabric", 1))
        # The group 5..9 has two members in the second node.
        self.assertEqual(_rates(info)[0], 20.0)

    def test_order_of_axes_is_explicit(self) -> None:
        inner = axis_link(_cluster(), (8, 4), 0, order=(1, 0))
        self.assertEqual(inner, axis_link(_cluster(), (4, 8), 1))
        with self.assertRaisesRegex(ValueError, "must list each axis"):
            axis_link(_cluster(), (8, 4), 0, order=(0, 0))

    def test_ring_hops_have_the_latency_of_their_tier(self) -> None:
        whole = axis_link(_cluster(), (32, ), 0)
        # 28 hops inside nodes at 1 s, 4 between them at 5 s.
        self.assertAlmostEqual(whole.link.latency_s, (28 + 4 * 5) / 32)
        assert whole.inner is not None
        self.assertEqual(whole.inner.rate_bytes_per_s, 100.0)
        self.assertEqual(whole.num_units, 4)

    def test_islands_have_quicker_links_inside(self) -> None:
        self.assertEqual(axis_link(_cluster(), (32, ), 0).num_islands, 4)
        self.assertEqual(axis_link(_cluster(), (4, 8), 1).num_islands, 8)
        # In a rack the links of a node are no quicker than those between.
        rack = load_cluster("gb300-nvl72:72")
        self.assertEqual(axis_link(rack, (72, ), 0).num_islands, 72)

    def test_devices_share_a_card_only_when_both_are_busy(self) -> None:
        cluster = _cluster()
        shared = dataclasses.replace(cluster.tiers[1].link,
                                     links_per_device=0.25)
        cluster = dataclasses.replace(
            cluster,
            tiers=(cluster.tiers[0],
                   dataclasses.replace(cluster.tiers[1], link=shared)))
        busy = axis_link(cluster, (4, 8), 0)
        self.assertEqual(busy.link.rate_bytes_per_s, 10.0)
        # 2 of 8 devices of the second node are in the mesh.
        idle = axis_link(cluster, (2, 5), 1)
        self.assertEqual(idle.link.rate_bytes_per_s, 20.0)

    def test_axis_of_one_rank(self) -> None:
        self.assertEqual(axis_link(_cluster(), (32, 1), 1).size, 1)

    def test_members_on_nodes_of_their_own(self) -> None:
        self.assertTrue(axis_link(_cluster(), (4, 8), 0).apart)
        for shape, axis in (((4, 8), 1), ((32, ), 0), ((8, 4), 0)):
            self.assertFalse(axis_link(_cluster(), shape, axis).apart)
        node = dataclasses.replace(_cluster(), tiers=_cluster().tiers[:1])
        self.assertFalse(axis_link(node, (8, ), 0).apart)

    def test_errors(self) -> None:
        with self.assertRaisesRegex(
                ValueError, "needs 64 devices, cluster "
                "toy has 32; write toy:64"):
            axis_link(_cluster(), (64, ), 0)
        with self.assertRaisesRegex(ValueError, "has no axis 2"):
            axis_link(_cluster(), (4, 8), 2)


if __name__ == "__main__":
    unittest.main()
