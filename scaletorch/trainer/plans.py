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
    """Recipes as Python has them; nothing is evaluated.

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
    if not isinstance(name, ast.Name):
        raise ValueError(_unclear(ast.unparse(node), text))
    if name.id not in RECIPES:
        raise ValueError(f"plan: there is no recipe {name.id!r} in {text!r}: "
                         f"{nearest(name.id, RECIPES)}")
    if call is None:
        return RECIPES[name.id]()
    return _built(name.id, call, text)


def _built(recipe: str, call: ast.Call, text: str) -> Recipe:
    """A recipe with arguments, by their places or by name."""
    signature = inspect.signature(RECIPES[recipe])
    known = signature.parameters
    given = {k.arg: _literal(k.value, text) for k in call.keywords if k.arg}
    for name in (keyword.arg for keyword in call.keywords):
        if name not in known:
            raise ValueError(
                f"plan: recipe {recipe} has no argument {name!r} in "
                f"{text!r}: {nearest(str(name), known)}")
    try:
        bound = signature.bind(*(_literal(a, text) for a in call.args),
                               **given)
    except TypeError as error:
        raise ValueError(f"plan: recipe {recipe} in {text!r}: {error}; known "
                         f"arguments: {', '.join(known)}") from None
    return RECIPES[recipe](*bound.args, **bound.kwargs)


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(_unclear(ast.unparse(node), text)) from None


def _unclear(part: str, text: str) -> str:
    return (f"plan: can't read {part!r} in {text!r}; write auto, the path of "
            "a .yaml file, or recipes such as fsdp * "
            "megatron(sequence_parallel=True)")
