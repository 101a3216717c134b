"""The plan: layouts as a small text keyed by module path and block class.

A plan is data. It is written by the search or by a recipe, kept as YAML,
edited by hand, and resolved against a captured program, which checks every
line of it before anything runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from planner.ir.errors import LayoutError
from planner.ir.layout import Layout, R, format_layout, local_shape
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec, inner_mesh, layout_mesh
from planner.ir.plan_lines import class_layout, class_lines, read_layout
from planner.ir.plan_names import folded, matching, plain
from planner.ir.program import Program, value_kind
from planner.ir.shares import Shares, check_shares
from planner.names import nearest
from planner.yaml_data import (list_of, names_of, read_text, read_yaml,
                               real_number, whole_number)

__all__ = ["Plan", "VERSION"]

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one model runs on one mesh.

    Parameters
    ----------
    model : str
        Name of the model's class.
    mesh : MeshSpec
    axes : mapping of str to str
        What each axis is used for: a recipe's name, or ``auto``.
    at_rest : mapping of str to str
        Parameter and input names (``*`` stands for a block's number) to
        their layout, where it is not replicated.
    regather : tuple of str
        Parameters gathered again for the backward pass.
    recompute : tuple of str
        Block classes whose forward runs again in the backward.
    blocks : mapping of str to (mapping of str to str)
        Per block class, call label to its options and value label to its
        layout, where they are not replicated.
    prediction : mapping of str to float
        What the planner expects: ``step_time_s``, ``memory_bytes``, ...
    pipeline : PipelineSpec, optional
        Stages over one axis of the mesh. Layouts then are over the other
        axes (``dp`` of one rank where there is none) and, last, over the
        micro-batches.
    shares : mapping of str to tuple of int
        Axis to what each of its ranks gets of the batch, in proportion,
        where that is not the same: ``{"dp": (3, 1)}``.
    file : str
        That the plan was read from, which errors name; not part of the plan.
    """

    model: str
    mesh: MeshSpec
    axes: Mapping[str, str]
    at_rest: Mapping[str, str]
    regather: tuple[str, ...]
    blocks: Mapping[str, Mapping[str, str]]
    prediction: Mapping[str, float] = field(default_factory=dict)
    recompute: tuple[str, ...] = ()
    pipeline: PipelineSpec | None = None
    shares: Shares = field(default_factory=dict)
    file: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        check_shares(self.shares, self.mesh)
        if self.shares and self.pipeline is not None:
            raise ValueError(
                "unequal shares of the batch are not built for pipelines, "
                "whose micro-batches are alike on all ranks: give the "
                "slower devices stages with less work instead")

    @property
    def layout_mesh(self) -> MeshSpec:
        """The axes that layouts are over."""
        return layout_mesh(self.mesh, self.pipeline)

    @property
    def device_mesh(self) -> MeshSpec:
        """The mesh with an axis for a stage's ranks, also of one."""
        if self.pipeline is None:
            return self.mesh
        inner = inner_mesh(self.mesh, self.pipeline.axis)
        axes = dict(zip(self.mesh.names, self.mesh.sizes))
        axes |= dict(zip(inner.names, inner.sizes))
        return MeshSpec(tuple(axes), tuple(axes.values()))

    @staticmethod
    def of(program: Program,
           layout: ProgramLayout,
           axes: Mapping[str, str],
           prediction: Mapping[str, float] | None = None,
           *,
           mesh: MeshSpec | None = None,
           pipeline: PipelineSpec | None = None) -> Plan:
        """The plan that says what `layout` says.

        With a `pipeline`, `mesh` is the whole mesh.
        """
        rest = {
            plain(program, n): format_layout(lay)
            for n, lay in layout.at_rest.items()
            if value_kind(n) in ("param", "input") and set(lay) != {R}
        }
        every = [
            plain(program, n) for n in layout.at_rest
            if value_kind(n) == "param"
        ]
        return Plan(
            model=program.model_name,
            mesh=mesh or layout.mesh,
            shares=dict(layout.shares),
            pipeline=pipeline,
            axes=dict(axes),
            at_rest=folded(rest, every),
            recompute=tuple(sorted(layout.recompute)),
            regather=tuple(
                folded(
                    {plain(program, n): ""
                     for n in sorted(layout.regather)}, every)),
            blocks={
                n: class_lines(c, layout.classes[n])
                for n, c in program.classes.items()
            },
            prediction=dict(prediction or {}))

    def to_yaml(self) -> str:
        """Stable text; :meth:`from_yaml` gives the plan back."""
        data = {
            "version":
            VERSION,
            "model":
            self.model,
            "mesh":
            dict(zip(self.mesh.names, self.mesh.sizes)),
            "axes":
            dict(self.axes),
            **({
                "pipeline": self.pipeline.to_data()
            } if self.pipeline else {}),
            **({
                "shares": {
                    n: list(s)
                    for n, s in self.shares.items()
                }
            } if self.shares else {}),
            "at_rest":
            dict(self.at_rest),
            "regather":
            list(self.regather),
            "recompute":
            list(self.recompute),
            "blocks": {
                n: dict(b)
                for n, b in self.blocks.items()
            },
            "prediction": {
                k: float(v)
                for k, v in self.prediction.items()
            },
        }
        return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100)

    @staticmethod
    def from_yaml(text: str, *, where: str = "plan") -> Plan:
        """Read a plan; only data is read.

        Raises
        ------
        ValueError
            When the text is no plan of this version.
        """
        data = _mapping(read_yaml(text, where), where)
        known = [
            "version", "model", "mesh", "axes", "pipeline", "shares",
            "at_rest", "regather", "recompute", "blocks", "prediction"
        ]
        for key in data:
            if key not in known:
                raise ValueError(f"{where}: unknown key {key!r}; "
                                 f"{nearest(str(key), known)}")
        if data.get("version") != VERSION:
            raise ValueError(f"{where}: version {data.get('version')} is not "
                             f"{VERSION}; make the plan anew")
        if "model" not in data:
            raise ValueError(f"{where}: model is missing; name the class "
                             "that the plan is of")
        try:
            return _plan_of(data, where)
        except ValueError as error:
            if str(error).startswith(where):
                raise
            raise ValueError(f"{where}: {error}") from error

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a plan file.

        Raises
        ------
        ValueError
            When it can't be read, or is no plan of this version.
        """
        try:
            text = read_text(path)
        except OSError as error:
            problem = ("there is no plan" if isinstance(
                error, FileNotFoundError) else "can't read the plan")
            raise ValueError(
                f"{problem} {str(path)!r} ({error.strerror}); write one with "
                "plan.save(path) or python -m planner.explain --save"
            ) from None
        return replace(Plan.from_yaml(text, where=str(path)), file=str(path))

    def save(self, path: str | Path) -> None:
        """Write the plan to a file."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")

    def resolve(self, program: Program) -> ProgramLayout:
        """The layouts this plan gives a program.

        Raises
        ------
        LayoutError
            When the plan is of another model, names what is not there, or
            asks for a layout that is not legal.
        """
        with self.naming_file():
            return self._resolved(program)

    @contextlib.contextmanager
    def naming_file(self) -> Iterator[None]:
        """Have errors in layouts name the file that the plan is from."""
        try:
            yield
        except LayoutError as error:
            if not self.file:
                raise
            raise LayoutError(f"{self.file}: {error}") from error

    def _resolved(self, program: Program) -> ProgramLayout:
        self._check_model(program)
        classes = {
            n: class_layout(n, c, self.blocks[n], self.layout_mesh)
            for n, c in program.classes.items()
        }
        at_rest, regather = self._rest(program)
        return ProgramLayout(mesh=self.layout_mesh,
                             classes=classes,
                             at_rest=at_rest,
                             regather=regather,
                             shares=dict(self.shares),
                             recompute=self._recompute(program))

    def _check_model(self, program: Program) -> None:
        if set(self.blocks) != set(program.classes):
            raise LayoutError(
                f"this plan is of {self.model} with the blocks "
                f"{', '.join(sorted(self.blocks))}, but the model is "
                f"{program.model_name} with the blocks "
                f"{', '.join(sorted(program.classes))}; plan the model anew")

    def _recompute(self, program: Program) -> frozenset[str]:
        for name in self.recompute:
            if name not in program.classes:
                raise LayoutError(
                    f"recompute names the block {name!r}, which the model "
                    "does not have; "
                    f"{nearest(name, program.classes)}")
        return frozenset(self.recompute)

    def _rest(self,
              program: Program) -> tuple[dict[str, Layout], frozenset[str]]:
        whole = (R, ) * len(self.layout_mesh.sizes)
        at_rest = {n: whole for n in program.specs}
        names = {
            plain(program, n): n
            for n in program.specs if value_kind(n) in ("param", "input")
        }
        for pattern, text in self.at_rest.items():
            for name in matching(pattern, names):
                layout = read_layout(text, self.layout_mesh,
                                     f"at_rest: {pattern}")
                self._check_divides(program, names[name], layout)
                at_rest[names[name]] = layout
        again = {
            names[n]
            for pattern in self.regather
            for n in matching(pattern, names)
        }
        return at_rest, frozenset(again)

    def _check_divides(self, program: Program, name: str,
                       layout: Layout) -> None:
        spec = program.specs[name]
        bad = [
            p for p in layout
            if p.kind not in ("R", "S") or p.dim >= spec.ndim or p.parts
        ]
        if bad:
            raise LayoutError(
                f"{name} of shape {spec.shape} can't lie as {bad[0]} at "
                "rest; use R or S(dim) of one of its dims")
        try:
            local_shape(spec.shape, layout, self.layout_mesh.sizes)
        except ValueError as error:
            raise LayoutError(f"{name}: {error}") from None


class _Dumper(yaml.SafeDumper):
    """Texts of several lines are written as they are, line by line."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str",
                                     data,
                                     style="|" if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _plan_of(data: Mapping[str, Any], where: str) -> Plan:
    """The plan in a mapping that has no other keys."""
    mesh = _mapping(data.get("mesh"), f"{where}: mesh")
    pipeline = data.get("pipeline")
    plan = Plan(
        pipeline=None if pipeline is None else PipelineSpec.from_data(
            _mapping(pipeline, f"{where}: pipeline"), f"{where}: pipeline"),
        model=str(data.get("model")),
        mesh=MeshSpec(
            tuple(map(str, mesh)),
            tuple(
                whole_number(v, f"{where}: mesh: {n}")
                for n, v in mesh.items())),
        axes=_texts(data.get("axes"), f"{where}: axes"),
        shares=_shares(data.get("shares"), f"{where}: shares"),
        at_rest=_texts(data.get("at_rest"), f"{where}: at_rest"),
        regather=names_of(data.get("regather"), f"{where}: regather"),
        recompute=names_of(data.get("recompute"), f"{where}: recompute"),
        blocks={
            str(n): _texts(b, f"{where}: blocks: {n}")
            for n, b in _mapping(data.get("blocks"),
                                 f"{where}: blocks").items()
        },
        prediction={
            str(k): real_number(v, f"{where}: prediction: {k}")
            for k, v in _mapping(
                data.get("prediction") or {}, f"{where}: prediction").items()
        })
    known = list(plan.device_mesh.names)
    if plan.pipeline is not None:
        known.append(plan.pipeline.axis)
    for axis in plan.axes:
        if axis not in known:
            raise ValueError(f"{where}: axes: the mesh has no axis {axis!r}; "
                             f"{nearest(axis, known)}")
    return plan


def _mapping(data: Any, where: str) -> dict[Any, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a mapping, got "
                         f"{type(data).__name__}")
    return data


def _shares(data: Any, where: str) -> Shares:
    return {
        str(n):
        tuple(
            whole_number(s, f"{where}: {n}")
            for s in list_of(parts, f"{where}: {n}"))
        for n, parts in _mapping(data or {}, where).items()
    }


def _texts(data: Any, where: str) -> dict[str, str]:
    return {str(k): str(v) for k, v in _mapping(data or {}, where).items()}
