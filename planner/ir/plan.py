"""The plan: layouts as a small text keyed by module path and block class.

A plan is data. It is written by the search or by a recipe, kept as YAML,
edited by hand, and resolved against a captured program, which checks every
line of it before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from planner.cluster.names import nearest
from planner.ir.errors import LayoutError
from planner.ir.layout import (Layout, R, format_layout, local_shape,
                               parse_layout)
from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec, inner_mesh, layout_mesh
from planner.ir.program import BlockClass, Program, source_of, value_kind
from planner.ir.values import Value, call_of, calls_of, outputs_of
from planner.rules import options
from planner.rules.registry import OpCall, Option

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
            _plain(program, n): format_layout(lay)
            for n, lay in layout.at_rest.items()
            if value_kind(n) in ("param", "input") and set(lay) != {R}
        }
        every = [
            _plain(program, n) for n in layout.at_rest
            if value_kind(n) == "param"
        ]
        return Plan(
            model=program.model_name,
            mesh=mesh or layout.mesh,
            pipeline=pipeline,
            axes=dict(axes),
            at_rest=_folded(rest, every),
            recompute=tuple(sorted(layout.recompute)),
            regather=tuple(
                _folded(
                    {_plain(program, n): ""
                     for n in sorted(layout.regather)}, every)),
            blocks={
                n: _class_lines(c, layout.classes[n])
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
        data = _mapping(yaml.safe_load(text), where)
        known = [
            "version", "model", "mesh", "axes", "pipeline", "at_rest",
            "regather", "recompute", "blocks", "prediction"
        ]
        for key in data:
            if key not in known:
                raise ValueError(f"{where}: unknown key {key!r}; "
                                 f"{nearest(str(key), known)}")
        if data.get("version") != VERSION:
            raise ValueError(f"{where}: version {data.get('version')} is not "
                             f"{VERSION}; make the plan anew")
        mesh = _mapping(data.get("mesh"), f"{where}: mesh")
        pipeline = data.get("pipeline")
        return Plan(
            pipeline=None if pipeline is None else PipelineSpec.from_data(
                _mapping(pipeline, f"{where}: pipeline"),
                f"{where}: pipeline"),
            model=str(data.get("model")),
            mesh=MeshSpec(tuple(map(str, mesh)),
                          tuple(int(v) for v in mesh.values())),
            axes=_texts(data.get("axes"), f"{where}: axes"),
            at_rest=_texts(data.get("at_rest"), f"{where}: at_rest"),
            regather=tuple(map(str,
                               data.get("regather") or ())),
            recompute=tuple(map(str,
                                data.get("recompute") or ())),
            blocks={
                str(n): _texts(b, f"{where}: blocks: {n}")
                for n, b in _mapping(data.get("blocks"),
                                     f"{where}: blocks").items()
            },
            prediction={
                str(k): float(v)
                for k, v in _mapping(
                    data.get("prediction") or {},
                    f"{where}: prediction").items()
            })

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a plan file."""
        return Plan.from_yaml(Path(path).read_text(encoding="utf-8"),
                              where=str(path))

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
        self._check_model(program)
        classes = {
            n: self._class_layout(n, c)
            for n, c in program.classes.items()
        }
        at_rest, regather = self._rest(program)
        return ProgramLayout(mesh=self.layout_mesh,
                             classes=classes,
                             at_rest=at_rest,
                             regather=regather,
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
            _plain(program, n): n
            for n in program.specs if value_kind(n) in ("param", "input")
        }
        for pattern, text in self.at_rest.items():
            for name in _matching(pattern, names):
                layout = self._layout(text, f"at_rest: {pattern}")
                self._check_divides(program, names[name], layout)
                at_rest[names[name]] = layout
        again = {
            names[n]
            for pattern in self.regather
            for n in _matching(pattern, names)
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

    def _layout(self, text: str, where: str) -> Layout:
        try:
            layout = parse_layout(text)
        except ValueError as error:
            raise LayoutError(f"{where}: {error}") from None
        mesh = self.layout_mesh
        if len(layout) != len(mesh.sizes):
            raise LayoutError(
                f"{where}: {text!r} has {len(layout)} placements for "
                f"{len(mesh.sizes)} axes ({mesh})")
        return layout

    def _class_layout(self, name: str, cls: BlockClass) -> ClassLayout:
        lines = dict(self.blocks[name])
        whole = (R, ) * len(self.layout_mesh.sizes)
        calls, hubs = {}, {}
        for node in cls.placeholders:
            label = Value(node).label
            text = lines.pop(f"hold {label}", None)
            hubs[label] = whole if text is None else self._layout(
                text, f"blocks: {name}: hold {label}")
        for node in calls_of(cls.graph):
            label = node.meta["label"]
            where = f"blocks: {name}: {label} at {source_of(node)}"
            calls[label] = self._options(call_of(node), lines.pop(label, None),
                                         where)
            for number, value in enumerate(outputs_of(node)):
                text = lines.pop(f"hold {value.label}", None)
                hubs[value.label] = (calls[label].output(number) if text
                                     is None else self._layout(text, where))
        if lines:
            raise LayoutError(f"blocks: {name}: there is no "
                              f"{sorted(lines)[0]!r} in this block")
        return ClassLayout(calls=calls, hubs=hubs)

    def _options(self, call: OpCall, text: str | None,
                 where: str) -> CallLayout:
        mesh = self.layout_mesh
        parts = (text.split(" | ") if text is not None else ["R"] *
                 len(mesh.sizes))
        if len(parts) != len(mesh.sizes):
            raise LayoutError(f"{where}: {text!r} has {len(parts)} options "
                              f"for {len(mesh.sizes)} axes ({mesh})")
        return CallLayout(options=tuple(
            _option(call, part.strip(), size, axis, where) for part, size, axis
            in zip(parts, mesh.sizes, mesh.names, strict=True)))


class _Dumper(yaml.SafeDumper):
    """Texts of several lines are written as they are, line by line."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str",
                                     data,
                                     style="|" if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _option(call: OpCall, text: str, size: int, axis: str,
            where: str) -> Option:
    legal = options(call, size)
    for option in legal:
        if _short(option) == text:
            return option
    raise LayoutError(
        f"{where}: {text!r} is no option of {call.target} over {axis} "
        f"({size} ranks); its options are "
        f"{'; '.join(_short(o) for o in legal)}")


def _short(option: Option) -> str:
    """``R`` or ``V`` where everything is, else the option in full."""
    if option.lowering is None and not option.is_sharded:
        kinds = {str(p)
                 for p in option.outputs} | {str(p)
                                             for p in option.inputs}
        if kinds == {"R"} or not kinds:
            return "R"
        if kinds <= {"R", "V"} and "V" in {str(p) for p in option.outputs}:
            return "V"
    return str(option)


def _class_lines(cls: BlockClass, layout: ClassLayout) -> dict[str, str]:
    lines = {}
    for node in cls.placeholders:
        label = Value(node).label
        if set(layout.hubs[label]) != {R}:
            lines[f"hold {label}"] = format_layout(layout.hubs[label])
    for node in calls_of(cls.graph):
        chosen = layout.calls[node.meta["label"]]
        text = [_short(o) for o in chosen.options]
        if set(text) != {"R"}:
            lines[node.meta["label"]] = " | ".join(text)
        for number, value in enumerate(outputs_of(node)):
            held = layout.hubs.get(value.label, chosen.output(number))
            if held != chosen.output(number):
                lines[f"hold {value.label}"] = format_layout(held)
    return lines


def _plain(program: Program, name: str) -> str:
    """A global name as the user knows it."""
    kind, _, target = name.partition(":")
    return (f"input {program.leaves[int(target)].path}"
            if kind == "input" else target)


def _starred(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _folded(rest: Mapping[str, str], every: Iterable[str]) -> dict[str, str]:
    """Names of repeated blocks as one pattern, where they agree."""
    groups: dict[str, list[str]] = {}
    for name in every:
        groups.setdefault(_starred(name), []).append(name)
    folded: dict[str, str] = {}
    for name, text in rest.items():
        group = groups.get(_starred(name), [name])
        if all(rest.get(n) == text for n in group):
            folded[_starred(name) if len(group) > 1 else name] = text
        else:
            folded[name] = text
    return folded


def _matching(pattern: str, names: Mapping[str, str]) -> list[str]:
    expression = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
    found = [n for n in names if expression.fullmatch(n)]
    if not found:
        raise LayoutError(f"the plan names {pattern!r}, which the model does "
                          f"not have; {nearest(pattern, names)}")
    return found


def _mapping(data: Any, where: str) -> dict[Any, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a mapping, got "
                         f"{type(data).__name__}")
    return data


def _texts(data: Any, where: str) -> dict[str, str]:
    return {str(k): str(v) for k, v in _mapping(data or {}, where).items()}
