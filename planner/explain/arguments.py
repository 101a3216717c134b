"""The command line of ``python -m planner.explain``."""

from __future__ import annotations

import argparse
import ast
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from planner.choices import factorisations
from planner.constraints import allow, forbid, limit, pin
from planner.ir.layout import S
from planner.ir.mesh import MeshSpec
from planner.joint.space import AXES
from planner.names import nearest
from planner.objective import OBJECTIVES

__all__ = [
    "BATCH", "parse_arguments", "parse_constraint", "parse_mesh", "parse_range"
]

BATCH = 256
"""Global batch size of a config or a name where none is given."""
_CONSTRAINTS: dict[str, Callable[..., Any]] = {
    "pin": pin,
    "forbid": forbid,
    "limit": limit,
    "allow": allow
}
_NAMES = {1: ("dp", ), 2: ("dp", "tp"), 3: ("dp", "cp", "tp")}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; ``--help`` and mistakes end the program."""
    parser = argparse.ArgumentParser(
        prog="python -m planner.explain",
        description="Plan a model on a cluster and explain the plan; needs "
        "no GPU and no process group.")
    _add_model(parser.add_argument_group("model").add_argument)
    _add_search(parser.add_argument_group("what to look for").add_argument)
    _add_output(parser.add_argument_group("what to tell").add_argument)
    args = parser.parse_args(argv)
    args.fit = args.fit or args.objective == "devices"
    return args


def _add_model(add: Callable[..., Any]) -> None:
    """The model, and what its step is given."""
    add("model",
        type=Path,
        help="Python file with get_model() and get_inputs(), a Hugging Face "
        "config.json, or a name that python -m scaletorch.models prints")
    add("--batch",
        type=int,
        help="global batch size, for a config or a name (default: "
        f"{BATCH})")
    add("--seq",
        type=int,
        help="tokens in each sequence, for a config or a name (default: as "
        "many as the model has positions, at most 4096)")
    add("--dtype", help="of the parameters, for a config or a name")


def _add_search(add: Callable[..., Any]) -> None:
    """What is asked, on which devices."""
    add("--mesh",
        help="64 (the split is searched), 8x8 (dp x "
        "tp), 8x2x4 (dp x cp x tp) or dp=8,tp=8 (default: as many as the "
        "cluster has if its sizes are given, else 8)")
    add("--cluster",
        default="h100-sxm",
        help="preset, YAML file or \"local\" (the profile of this machine), "
        "with sizes after a colon (default: %(default)s)")
    add("--fit",
        action="store_true",
        help="find the fewest devices on which a plan fits in memory, up to "
        "the cluster's number if it is given")
    add("--price-per-device-hour",
        type=float,
        metavar="PRICE",
        help="in any currency, to price what --fit finds (default: what the "
        "cluster's file says, if it does)")
    add("--objective",
        choices=OBJECTIVES,
        help="what is best: the quickest step (default), the most work per "
        "second and device (default with --global-batch), or the fewest "
        "devices (as --fit)")
    add("--global-batch",
        metavar="LOW:HIGH",
        help="search the size of the global batch too: LOW, its doubles, "
        "and HIGH")
    add("--plan", type=Path, help="explain this plan instead of searching")
    add("--constraint",
        action="append",
        default=[],
        metavar="C",
        help="pin(\"*.q_proj.weight\", tp=S(0)), forbid(\"fsdp\"), "
        "limit(tp=8) or allow(\"batch_statistics\"); may be repeated")
    add("--optimizer",
        default="adamw",
        help="whose state is budgeted (default: %(default)s); with -master "
        "in float32, beside a float32 copy of parameters of lower precision")
    add("--memory-limit-gib",
        type=float,
        metavar="GIB",
        help="per device; its memory if left out")
    add("--time-limit-s",
        type=float,
        metavar="S",
        help="after which the search ends with what it has found and how "
        "much better the best can be; as long as it takes if left out")


def _add_output(add: Callable[..., Any]) -> None:
    """What is told, and where."""
    add("--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="what differs between two plans")
    add("--json", action="store_true", help="print JSON, not text")
    add("--html",
        type=Path,
        metavar="FILE",
        help="also write the report as a page")
    add("--trace",
        type=Path,
        metavar="FILE",
        help="also write the predicted step as trace events, for Perfetto")
    add("--dot",
        type=Path,
        metavar="FILE",
        help="also write the blocks and the layouts between them, for "
        "Graphviz")
    add("--save", type=Path, metavar="PLAN", help="write the plan as YAML")
    add("--top",
        type=int,
        default=8,
        metavar="N",
        help="alternatives that are shown (default: %(default)s); where the "
        "split of the devices is searched, half as many other splits are "
        "priced for them, and of a mesh with stages as many other ways to "
        "run them")
    add("--half-batch",
        action="store_true",
        help="also say what half the batch would change; captures the model "
        "once more")


def parse_range(text: str) -> range:
    """Sizes of the global batch.

    Raises
    ------
    ValueError
        When the text is no range.

    Examples
    --------
    >>> parse_range("256:2048")
    range(256, 2049)
    """
    low, _, high = text.partition(":")
    try:
        found = range(int(low), int(high) + 1)
    except ValueError:
        found = range(0)
    if not found or found.start < 1:
        raise ValueError(f"--global-batch {text!r} is no range; write the "
                         "smallest and the largest size, as in 256:2048")
    return found


def parse_mesh(text: str) -> list[MeshSpec]:
    """The meshes that a ``--mesh`` leaves to the search.

    Raises
    ------
    ValueError
        When the text is no mesh.

    Examples
    --------
    >>> [str(m) for m in parse_mesh("dp=8,tp=2")]
    ['dp=8 x tp=2']
    >>> [str(m) for m in parse_mesh("2")]
    ['tp=2', 'dp=2']
    """
    try:
        if "=" in text:
            pairs = [part.split("=") for part in text.split(",")]
            named = MeshSpec(tuple(n.strip() for n, _ in pairs),
                             tuple(int(s) for _, s in pairs))
            _warn_of_names(named)
            return [named]
        sizes = tuple(int(part) for part in text.split("x"))
        if len(sizes) == 1 and sizes[0] > 0:
            return factorisations(sizes[0])
        return [MeshSpec(_NAMES[len(sizes)], sizes)]
    except (ValueError, KeyError):
        raise ValueError(f"--mesh {text!r} is no mesh; write 64, 8x8 (dp x "
                         "tp), 8x2x4 (dp x cp x tp) or dp=8,tp=8") from None


def _warn_of_names(mesh: MeshSpec) -> None:
    """An axis may have any name, but few of them say what it is for."""
    for name in mesh.names:
        if name not in AXES and "did you mean" in (hint := nearest(
                name.lower(), AXES)):
            warnings.warn(
                f"--mesh {mesh}: the name {name!r} says nothing of what the "
                f"axis is for; {hint}",
                stacklevel=2)


def parse_constraint(text: str) -> Any:
    """A constraint from its Python spelling; nothing is evaluated.

    Raises
    ------
    ValueError
        When the text is no call of pin, forbid, limit or allow.

    Examples
    --------
    >>> str(parse_constraint("pin('*.weight', tp=S(0))"))
    "pin('*.weight', tp=S(0))"
    """
    hint = (f"--constraint {text!r} is no constraint; write "
            "pin(\"*.q_proj.weight\", tp=S(0)), forbid(\"fsdp\"), "
            "limit(tp=8) or allow(\"batch_statistics\")")
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(hint) from None
    if (not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name)
            or call.func.id not in _CONSTRAINTS):
        raise ValueError(hint)
    try:
        args = [_literal(a) for a in call.args]
        kwargs = {str(k.arg): _literal(k.value) for k in call.keywords}
        return _CONSTRAINTS[call.func.id](*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{hint} ({error})") from None


def _literal(node: ast.expr) -> Any:
    """A literal, a placement's name, or ``S(dim)``/``Shard(dim)``."""
    if isinstance(node, ast.Name):
        return node.id
    if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            and node.func.id in ("S", "Shard", "Replicate")):
        values = [ast.literal_eval(a) for a in node.args]
        return S(*values) if node.func.id != "Replicate" else "R"
    return ast.literal_eval(node)
