"""Plans by text: ``auto``, recipes, or a file."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

from planner.names import nearest
from planner.recipes import RECIPES, Recipe

__all__ = ["parse_plan", "parse_recipe"]


def parse_plan(text: str) -> Recipe | Path | None:
    """What ``auto_parallelize`` takes as its plan.

    Parameters
    ----------
    text : str
        ``auto``, recipes, or the path of a YAML file.

    Returns
    -------
    Recipe, Path or None
        None for ``auto``.

    Raises
    ------
    ValueError
        When it is neither.
    """
    if text == "auto":
        return None
    if text.endswith((".yaml", ".yml")):
        if not Path(text).is_file():
            raise ValueError(f"plan: there is no file {text}")
        return Path(text)
    return parse_recipe(text)


def parse_recipe(text: str) -> Recipe:
    """Recipes by names and keyword arguments; nothing is evaluated.

    Parameters
    ----------
    text : str
        Such as ``fsdp * megatron(sequence_parallel=True)``.

    Raises
    ------
    ValueError
        For other syntax, unknown recipes and unknown arguments.

    Examples
    --------
    >>> parse_recipe("fsdp * megatron(sequence_parallel=True)").name
    'fsdp * megatron-sp'
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(_unclear(text, text)) from None
    return _recipe(tree, text)


def _recipe(node: ast.expr, text: str) -> Recipe:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _recipe(node.left, text) * _recipe(node.right, text)
    call = node if isinstance(node, ast.Call) else None
    name = call.func if call else node
    if not isinstance(name, ast.Name) or (call and call.args):
        raise ValueError(_unclear(ast.unparse(node), text))
    if name.id not in RECIPES:
        raise ValueError(f"plan: there is no recipe {name.id!r} in {text!r}: "
                         f"{nearest(name.id, RECIPES)}")
    builder = RECIPES[name.id]
    known = inspect.signature(builder).parameters
    given: dict[str, Any] = {}
    for keyword in call.keywords if call else ():
        if keyword.arg not in known:
            raise ValueError(
                f"plan: recipe {name.id} has no argument {keyword.arg!r} in "
                f"{text!r}: {nearest(str(keyword.arg), known)}")
        given[str(keyword.arg)] = _literal(keyword.value, text)
    return builder(**given)


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(_unclear(ast.unparse(node), text)) from None


def _unclear(part: str, text: str) -> str:
    return (f"plan: can't read {part!r} in {text!r}; write auto, the path of "
            "a .yaml file, or recipes such as fsdp * "
            "megatron(sequence_parallel=True)")
