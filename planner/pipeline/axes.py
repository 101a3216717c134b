"""Layouts over one axis more, or one less."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from planner.ir.layout import Layout, R
from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.search.facts import Facts

__all__ = ["extended", "with_axis", "without_axis"]

Item = TypeVar("Item")


def extended(facts: Facts, mesh: MeshSpec,
             cut: ProgramLayout) -> ProgramLayout:
    """The cut of the batch on a mesh whose other ranks do all the same."""
    others = len(mesh.sizes) - 1

    def longer(hubs: Mapping[str, Layout]) -> dict[str, Layout]:
        return {n: (*(R, ) * others, *lay) for n, lay in hubs.items()}

    classes = {}
    for name, cls in cut.classes.items():
        calls = facts.classes[name].calls
        classes[name] = ClassLayout(calls={
            label:
            CallLayout(
                options=(*(calls[label].options(1).options[0], ) * others,
                         *chosen.options))
            for label, chosen in cls.calls.items()
        },
                                    hubs=longer(cls.hubs))
    return dataclasses.replace(cut,
                               mesh=mesh,
                               classes=classes,
                               at_rest=longer(cut.at_rest))


def with_axis(layout: ProgramLayout, axis: int,
              alone: ProgramLayout) -> ProgramLayout:
    """Over one axis as in other layouts of the program that have it."""
    there = alone.mesh.names.index(layout.mesh.names[axis])

    def taken(row: tuple[Item, ...], own: tuple[Item,
                                                ...]) -> tuple[Item, ...]:
        return (*row[:axis], own[there], *row[axis + 1:])

    classes = {}
    for name, cls in layout.classes.items():
        own = alone.classes[name]
        classes[name] = ClassLayout(calls={
            label:
            CallLayout(options=taken(c.options, own.calls[label].options))
            for label, c in cls.calls.items()
        },
                                    hubs={
                                        n: taken(h, own.hubs[n])
                                        for n, h in cls.hubs.items()
                                    })
    return dataclasses.replace(layout,
                               classes=classes,
                               at_rest={
                                   n: taken(h, alone.at_rest[n])
                                   for n, h in layout.at_rest.items()
                               })


def without_axis(layout: ProgramLayout, axis: int) -> ProgramLayout:
    """Layouts as they are over the other axes."""

    classes = {
        name:
        ClassLayout(calls={
            label: CallLayout(options=_without(c.options, axis))
            for label, c in cls.calls.items()
        },
                    hubs={
                        n: _without(h, axis)
                        for n, h in cls.hubs.items()
                    })
        for name, cls in layout.classes.items()
    }
    mesh = layout.mesh
    return dataclasses.replace(layout,
                               mesh=MeshSpec(_without(mesh.names, axis),
                                             _without(mesh.sizes, axis)),
                               classes=classes,
                               at_rest={
                                   n: _without(h, axis)
                                   for n, h in layout.at_rest.items()
                               })


def _without(row: tuple[Item, ...], axis: int) -> tuple[Item, ...]:
    return row[:axis] + row[axis + 1:]
