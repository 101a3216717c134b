"""Reports, plans and a reader of pages that the tests here share."""

from __future__ import annotations

import functools
from html.parser import HTMLParser
from typing import Any

from planner.candidate import Candidate
from planner.cluster import load_cluster
from planner.explain.page.build import PageContent
from planner.explain.page.tree import parameter_rows
from planner.explain.report import build_report
from planner.explain.timeline import step_timeline
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import ddp, pipeline
from tests.test_planner.test_planning.programs import mlp, slow_cluster, zoo

__all__ = ["Reader", "content_of", "piped", "plain"]

GRID = MeshSpec(("dp", "tp"), (2, 2))
STAGES = MeshSpec(("pp", "dp"), (2, 2))


class Reader(HTMLParser):
    """Tags, text and attributes of a page; unclosed tags fail."""

    _VOID = ("meta", "br", "hr")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise ValueError(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every such tag."""
        return [attributes for t, attributes in self.tags if t == tag]


@functools.cache
def plain() -> tuple[Planning, Candidate, list[Candidate]]:
    """A search without stages."""
    planning = Planning(mlp(), slow_cluster(4, 1e8))
    found = planning.candidates([GRID])
    return planning, found[0], found


@functools.cache
def piped() -> tuple[Planning, Candidate, list[Candidate]]:
    """Two pipelines of a small Llama."""
    planning = Planning(zoo("llama"), load_cluster("h100-sxm").resized(4))
    found = [
        planning.from_recipe(pipeline(name, microbatches=2) * ddp(), STAGES)
        for name in ("1f1b", "zbh1")
    ]
    found.sort(key=planning.rank)
    return planning, found[0], found


def content_of(planning: Planning, chosen: Candidate,
               found: list[Candidate]) -> PageContent:
    """What the page of a plan shows."""
    return PageContent(report=build_report(planning, chosen, found),
                       timeline=step_timeline(planning.program, chosen),
                       parameters=parameter_rows(planning.program, chosen),
                       plan=planning.plan_of(chosen).to_yaml())
