"""The cut into micro-batches, found once for all numbers of them."""

from __future__ import annotations

import unittest

from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.pipeline.means import count_ahead
from planner.pipeline.microbatch import with_microbatches
from planner.planning import Planning
from planner.search.policy import Policy
from tests.test_planner.test_joint.test_joint import llama


class TestCut(unittest.TestCase):

    def test_is_the_same_after_another(self) -> None:
        mesh = MeshSpec(("tp", ), (2, ))
        cluster = load_cluster("h100-sxm").resized(2)

        def planning() -> Planning:
            return Planning(count_ahead(llama()), cluster)

        both = planning()
        for count in (2, 4):
            first = with_microbatches(planning(), mesh, [Policy()], count)
            later = with_microbatches(both, mesh, [Policy()], count)
            self.assertEqual(first, later)


if __name__ == "__main__":
    unittest.main()
