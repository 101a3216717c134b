"""The page: template, style and script filled with a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

from planner.explain.page import sections
from planner.explain.page.charts import step_chart
from planner.explain.page.markup import Markup, element, join
from planner.explain.page.tree import module_tree
from planner.explain.timeline import Timeline

__all__ = ["PageContent", "build_page"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContent:
    """What the page shows.

    Parameters
    ----------
    report : mapping
        Of :func:`planner.explain.report.build_report`.
    timeline : Timeline
    parameters : sequence of dict
        Of :func:`planner.explain.page.tree.parameter_rows`.
    plan : str
        The plan's YAML.
    """

    report: Mapping[str, Any]
    timeline: Timeline
    parameters: Sequence[dict[str, Any]]
    plan: str


def build_page(content: PageContent) -> str:
    """One HTML file that needs nothing else, neither files nor network.

    Every name in it is escaped. Without scripts it shows the same, but
    tables don't sort and charts don't tell their names.

    Parameters
    ----------
    content : PageContent
    """
    report = content.report
    mesh = " x ".join(f"{n}={s}" for n, s in report["mesh"].items())
    parts = _sections(content)
    return Template(_data("page.html")).substitute(
        title=join(f"{report['model']} on {report['cluster']}"),
        place=join(f"{report['cluster']}, {mesh}"),
        plan=join(report["plan"]),
        style=_data("page.css"),
        script=_data("page.js"),
        notice=sections.notice(report),
        figures=sections.key_figures(report),
        links=join([
            element("li", None, element("a", {"href": f"#{key}"}, title))
            for key, title, _ in parts
        ]),
        sections=join([_section(*part) for part in parts]))


def _sections(content: PageContent) -> list[tuple[str, str, Markup]]:
    """(anchor, title, content) in order."""
    report = content.report
    asked = []
    if report["fit"]:
        asked.append(("devices", "How many devices", sections.devices(report)))
    if report["batches"]:
        asked.append(("batch", "How large a batch", sections.batches(report)))
    return [
        *asked,
        ("step", "One step",
         join(sections.time(report),
              step_chart(content.timeline, list(report["mesh"])),
              sections.drawn(report, content.timeline.end_s))),
        ("memory", "Memory", sections.memory(report)),
        ("communication", "Communication", sections.communication(report)),
        ("search", "Search space", sections.others(report)),
        ("limits", "Limits and outlook", sections.limits(report)),
        ("model", "Layouts in the model",
         join(_about_layouts(content),
              module_tree(report["model"], content.parameters))),
        ("plan", "The plan",
         element("pre", {
             "tabindex": 0,
             "aria-label": "the plan as YAML"
         }, content.plan)),
    ]


def _about_layouts(content: PageContent) -> Markup:
    axes = ", ".join(content.report["layouts_over"])
    return element(
        "p", None, f"One placement for each of {axes}: R is whole, S(d) is "
        "divided along dim d, P is a sum that is still to be made.")


def _section(key: str, title: str, content: Markup) -> Markup:
    return element("section", {
        "id": key,
        "aria-labelledby": f"{key}-title"
    }, element("h2", {"id": f"{key}-title"}, title), content)


def _data(name: str) -> str:
    found = files("planner.explain.page").joinpath(name)
    return found.read_text(encoding="utf-8")
