"""The JSON has the keys that its page lists, no more and no fewer."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from unittest import TestCase

import torch
from torch import nn

from planner.batches import best_batch, search_batches
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.cluster.spec import NodeGroup
from planner.constraints import Constraints, limit
from planner.explain.compare import compare_plans
from planner.explain.report import build_report
from planner.fit import fewest_devices
from planner.ir.mesh import MeshSpec
from planner.joint.score import Score
from planner.joint.space import Cell, Point
from planner.planning import Planning
from planner.recipes import ddp, pipeline
from tests.test_planner.test_explain.pages import GRID, piped, plain
from tests.test_planner.test_planning.programs import (mlp, rows_of_mlp,
                                                       slow_cluster, zoo)

_PAGE = Path(__file__).parents[3] / "doc" / "explain.md"
_FREE = ("mesh", "by_kind", "delta_s", "opaque[].costs_s")
"""Whose keys are names of axes, kinds and causes."""


class _Host(nn.Module):
    """Leaves PyTorch in its forward, and so can't be captured."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy().copy())


def _opaque() -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(4, 4), _Host(), nn.Linear(4, 4))
    program = capture(model, (torch.zeros(4, 4), torch.zeros(4, 4)),
                      loss_fn=nn.functional.mse_loss,
                      opaque=True)
    planning = Planning(program, slow_cluster(2, 1e8))
    found = planning.candidates([MeshSpec(("dp", ), (2, ))])
    return build_report(planning, found[0], found)


def _constrained() -> dict[str, Any]:
    planning = Planning(mlp(),
                        slow_cluster(4, 1e8),
                        constraints=Constraints(limit(tp=2)))
    found = planning.candidates([GRID])
    return build_report(planning, found[0], found, meshes=[GRID])


def _breaking() -> dict[str, Any]:
    """A plan that is given and breaks a constraint."""
    planning, chosen, _ = plain()
    constraints = Constraints(limit(tp=1))
    return build_report(planning.copied(constraints=constraints), chosen,
                        [chosen])


def _fitted() -> dict[str, Any]:
    planning = Planning(mlp(), slow_cluster(4, 1e8), memory_limit_bytes=900)
    fit = fewest_devices(planning, most=4)
    sized = fit.smallest
    return build_report(sized.planning, sized.found[0], sized.found, fit=fit)


def _batched() -> dict[str, Any]:
    tried = search_batches(range(4, 9), rows_of_mlp, [GRID])
    best = best_batch(tried)
    return build_report(best.planning,
                        best.found[0],
                        best.found,
                        batches=tried)


def _split() -> dict[str, Any]:
    """A split of the devices was looked at, and no plan on it priced."""
    planning = Planning(mlp(), slow_cluster(4, 1e8))
    found = planning.candidates([GRID])
    point = Point(cell=Cell(tp=4), pp=1, dp=1, microbatches=1)
    score = Score(point=point, time_s=1.0, memory_bytes=1.0)
    planning.searched = dataclasses.replace(planning.searched,
                                            scored=(score, ))
    return build_report(planning, found[0], found)


def _shared() -> dict[str, Any]:
    """On two devices, the second of half the speed."""
    alike = slow_cluster(1, 1e9)
    other = dataclasses.replace(alike.device,
                                name="other",
                                peak_flops_per_s=(("float32", 5e8), ))
    outer = dataclasses.replace(alike.tiers[0], name="fabric", size=2)
    cluster = dataclasses.replace(alike,
                                  tiers=(*alike.tiers, outer),
                                  others=(NodeGroup(num_nodes=1,
                                                    device=other), ))
    planning = Planning(mlp(), cluster)
    chosen, found = planning.best([MeshSpec(("dp", ), (2, ))])
    return build_report(planning, chosen, found)


def _collected(data: object, path: str, found: dict[str, set[str]]) -> None:
    """The keys of every object, by where it is."""
    if isinstance(data, list):
        for item in data:
            _collected(item, f"{path}[]", found)
    elif isinstance(data, dict):
        found.setdefault(path or "report", set()).update(data)
        for key, value in data.items():
            inner = f"{path}.{key}" if path else key
            if not any(inner == f or key == f for f in _FREE):
                _collected(value, inner, found)


def _documented(heading: str) -> dict[str, set[str]]:
    text = _PAGE.read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z_.\[\]]+) \| (.*) \|$", section, re.MULTILINE)
    return {
        path: set(re.findall(r"`([a-z_]+)`", keys))
        for path, keys in rows if path != "of"
    }


class TestKeys(TestCase):

    def test_equal_the_documented_ones(self) -> None:
        self.maxDiff = None
        found: dict[str, set[str]] = {}
        reports = [
            build_report(*piped()),
            _fitted(),
            _batched(),
            _opaque(),
            _constrained(),
            _breaking(),
            _split(),
            _shared()
        ]
        for report in reports:
            _collected(json.loads(json.dumps(report)), "", found)
        self.assertEqual(found, _documented("JSON"))

    def test_of_a_comparison(self) -> None:
        planning, _, candidates = plain()
        plans = [(planning.plan_of(c), c) for c in candidates[:2]]
        found: dict[str, set[str]] = {}
        limited = planning.copied(constraints=Constraints(limit(tp=1)))
        comparison = compare_plans(limited, *plans)
        _collected(json.loads(json.dumps(comparison)), "", found)
        found = {
            path: keys
            for path, keys in found.items()
            if not path.startswith(("settings", "at_rest", "blocks"))
        }
        found["comparison"] = found.pop("report")
        self.assertEqual(found, _documented("JSON of a comparison"))

    def test_solution(self) -> None:
        planning, chosen, found = plain()
        solution = build_report(planning, chosen, found)["solution"]
        self.assertEqual(solution["value"], chosen.summed_s)
        self.assertLessEqual(solution["bound"], solution["value"])
        self.assertGreaterEqual(solution["visited"], len(found))
        self.assertGreater(solution["seconds"], 0)

    def test_links_of_a_mesh_with_stages(self) -> None:
        """The outermost axis goes between two nodes of two devices."""
        planning = Planning(zoo("llama"), load_cluster("h100-sxm:2x2"))
        for names in (("pp", "dp"), ("dp", "pp")):
            chosen = planning.from_recipe(
                pipeline("1f1b", microbatches=2) * ddp(),
                MeshSpec(names, (2, 2)))
            axes = build_report(planning, chosen, [chosen])["axes"]
            self.assertEqual([a["axis"] for a in axes], list(names))
            self.assertEqual([a["tier"] for a in axes],
                             [t.name for t in planning.cluster.tiers[::-1]])
