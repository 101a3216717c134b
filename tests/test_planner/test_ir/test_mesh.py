"""Meshes as plain data."""

from __future__ import annotations

import unittest

from planner.ir.mesh import MeshSpec


class TestMeshSpec(unittest.TestCase):

    def test_ranks_are_row_major(self) -> None:
        mesh = MeshSpec(("dp", "tp"), (2, 3))
        self.assertEqual([mesh.coordinate(r) for r in range(6)],
                         [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)])
        self.assertEqual((mesh.world_size, mesh.size("tp")), (6, 3))
        self.assertEqual(str(mesh), "dp=2 x tp=3")

    def test_unknown_axis(self) -> None:
        with self.assertRaisesRegex(ValueError, "no axis 'cp'; it has dp"):
            MeshSpec(("dp", ), (2, )).index("cp")

    def test_what_is_no_mesh(self) -> None:
        rows = ((("dp", ), (2, 2), "1 axis names for 2 sizes"),
                (("dp", "dp"), (2, 2), "repeat"), (("dp", ), (0, ),
                                                   "must be positive"))
        for names, sizes, text in rows:
            with self.assertRaisesRegex(ValueError, text):
                MeshSpec(names, sizes)


if __name__ == "__main__":
    unittest.main()
