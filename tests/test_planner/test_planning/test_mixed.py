from __future__ import annotations

import dataclasses
import unittest

from planner.cluster.spec import ClusterSpec, NodeGroup
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES
from tests.test_planner.test_planning.programs import slow_cluster, zoo


def _on_two_nodes(second_flops_per_s: float) -> ClusterSpec:
    """Two nodes of two devices, the second of another kind."""
    base = slow_cluster(2, 1e9)
    other = dataclasses.replace(base.device,
                                name="other",
                                memory_bytes=10**8,
                                peak_flops_per_s=(("float32",
                                                   second_flops_per_s), ))
    outer = dataclasses.replace(base.tiers[0], name="fabric")
    return dataclasses.replace(base,
                               tiers=(base.tiers[0], outer),
                               others=(NodeGroup(num_nodes=1, device=other), ))


class TestMixed(unittest.TestCase):

    def _time_s(self, cluster: ClusterSpec) -> float:
        planning = Planning(zoo("llama"), cluster)
        return planning.from_recipe(RECIPES["ddp"](), MeshSpec(
            ("dp", ), (4, ))).price.time_s

    def test_the_slowest_kind_sets_the_pace(self) -> None:
        even, slower, faster = (self._time_s(_on_two_nodes(f))
                                for f in (1e9, 0.5e9, 2e9))
        self.assertGreater(slower, even)
        self.assertEqual(faster, even)

    def test_the_smallest_memory_is_the_limit(self) -> None:
        planning = Planning(zoo("llama"), _on_two_nodes(1e9))
        self.assertEqual(planning.memory_limit_bytes, 10**8)


if __name__ == "__main__":
    unittest.main()
