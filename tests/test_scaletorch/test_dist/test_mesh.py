"""Axes by name, and seeds along them."""

from __future__ import annotations

import unittest
from typing import Any

import torch

from scaletorch import dist


def grid(rank: int) -> dict[str, Any]:
    """A mesh of 2 x 1 x 2, as one rank sees it."""
    mesh = dist.make_mesh({"dp": -1, "cp": 1, "tp": 2}, dist.init())
    sums = {
        axes:
        float(dist.all_reduce(torch.tensor(2.0**rank),
                              group=mesh.group(*axes)))
        for axes in (("dp", ), ("tp", ), ("cp", ), ("dp", "tp"))
    }
    return {
        "text": str(mesh),
        "sizes": [mesh.size("dp"), mesh.size("dp", "tp"), mesh.size()],
        "place": [mesh.coordinate("dp"), mesh.coordinate("tp"),
                  mesh.coordinate()],
        "ranks": [mesh.ranks("dp"), mesh.ranks("tp"), mesh.ranks("cp"),
                  mesh.ranks()],
        "ends": [mesh.is_first("tp"), mesh.is_last("dp")],
        "next": mesh.neighbour("dp"),
        "sums": sums,
        "seeds": [dist.axis_seed(3, mesh),
                  dist.axis_seed(3, mesh, different=["dp"]),
                  dist.axis_seed(3, mesh, different=["tp", "dp"]),
                  dist.axis_seed(3, mesh, different=["dp", "tp"])],
        "draws": torch.rand(
            1, generator=dist.axis_generator(3, mesh, different=["tp"])).item()
    }  # yapf: disable


class TestMesh(unittest.TestCase):
    found: list[dict[str, Any]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.found = dist.run_ranks(4, grid)

    def test_axes(self) -> None:
        first, third = self.found[0], self.found[2]
        self.assertEqual(first["text"], "dp=2 x cp=1 x tp=2")
        self.assertEqual(first["sizes"], [2, 4, 4])
        self.assertEqual(third["place"], [1, 0, 2])
        self.assertEqual(third["ranks"], [(0, 2), (2, 3), (2, ), (0, 1, 2, 3)])
        self.assertEqual(third["ends"], [True, True])
        self.assertEqual([f["next"] for f in self.found], [2, 3, 0, 1])

    def test_groups_are_the_ranks(self) -> None:
        for found in self.found:
            for axes, total in found["sums"].items():
                number = [("dp", ), ("tp", ), ("cp", ),
                          ("dp", "tp")].index(axes)
                self.assertEqual(total,
                                 sum(2.0**r for r in found["ranks"][number]))

    def test_seeds_differ_along_sharded_axes_only(self) -> None:
        seeds = [f["seeds"] for f in self.found]
        self.assertEqual(len({s[0] for s in seeds}), 1)
        self.assertEqual(seeds[0][1], seeds[1][1])
        self.assertEqual(len({s[1] for s in seeds}), 2)
        self.assertEqual(len({s[2] for s in seeds}), 4)
        self.assertEqual([s[2] for s in seeds], [s[3] for s in seeds])
        draws = [f["draws"] for f in self.found]
        self.assertEqual(draws[0], draws[2])
        self.assertNotEqual(draws[0], draws[1])

    def test_errors(self) -> None:
        process = dist.init("cpu", variables={})
        try:
            for sizes, text in (({
                    "dp": 2
            }, "has 2 ranks, but the job has 1"), ({
                    "a": -1,
                    "b": -1
            }, "only one axis"), ({
                    "a": -1,
                    "b": 2
            }, "a has no size")):
                with self.assertRaisesRegex(ValueError, text):
                    dist.make_mesh(sizes, process)
            mesh = dist.make_mesh({"dp": 1}, process)
            with self.assertRaisesRegex(ValueError, "no axis 'tp'"):
                mesh.size("tp")
            self.assertEqual(mesh.ranks(), (0, ))
        finally:
            dist.shutdown()


class TestSeedEverything(unittest.TestCase):

    def test_generators_start_alike(self) -> None:
        state = torch.get_rng_state()
        try:
            dist.seed_everything(7)
            first = torch.rand(2)
            dist.seed_everything(7)
            self.assertEqual(first.tolist(), torch.rand(2).tolist())
        finally:
            torch.set_rng_state(state)


if __name__ == "__main__":
    unittest.main()
