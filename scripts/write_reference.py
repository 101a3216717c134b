"""Write the pages of doc/ that follow from the code.

``python -m scripts.write_reference`` writes doc/strategies.md (the lessons
of scaletorch.parallel) and doc/reference.md (commands, keys of plans, and
what is registered); a test compares them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from passes.kernels import PASS_ORDER
from planner.cluster.coefficients import COEFFICIENTS, EFFICIENCIES
from planner.cluster.load import preset_names
from planner.ir.pipeline import PipelineSpec
from planner.ir.plan import Plan
from planner.recipes import RECIPES
from planner.schedule.registry import names as schedule_names
from scaletorch.data.registry import kinds
from scaletorch.trainer.reference import parameter_texts

__all__ = ["PAGES", "main"]

ROOT = Path(__file__).resolve().parent.parent

LESSONS = {
    "": "How to read the pages",
    "data_parallel": "Data",
    "fully_sharded": "Fully sharded",
    "tensor": "Tensor",
    "sequence": "Sequence",
    "context": "Context",
    "experts": "Expert",
    "stages": "Pipeline"
}
"""Modules of scaletorch.parallel and the titles of their lessons."""

COMMANDS = ("scaletorch.train", "planner.explain.__main__",
            "planner.profile.__main__", "planner.simulate",
            "scaletorch.data.__main__")
"""Modules whose ``main`` prints a help text."""

_PLAN_TEXTS = {
    "version": "Of the format; 1.",
    "mesh": "Ranks of each axis, outermost first."
}
_NOTE = ("<!-- Written by python -m scripts.write_reference; change the "
         "sources, not this page. -->\n\n")


def strategies() -> str:
    """The lessons, one after the other."""
    parts = ["# Strategies\n"]
    for name, title in LESSONS.items():
        module = importlib.import_module(".".join(
            filter(None, ("scaletorch.parallel", name))))
        parts.append(f"## {title}\n\n{as_markdown(module.__doc__ or '')}")
    return _NOTE + "\n".join(parts)


def as_markdown(text: str) -> str:
    """A docstring with its doctests as blocks of code.

    Examples
    --------
    >>> as_markdown("Of :mod:`a`: ``b``.")
    'Of `a`: `b`.\\n'
    """
    text = inspect.cleandoc(text).replace("Examples\n--------\n", "")
    lines = []
    for part in re.split(r"\n{2,}", text):
        if part.startswith(">>> "):
            lines.append(f"```pycon\n{part}\n```")
        else:
            lines.append(re.sub(r":\w+:`", "`", part).replace("``", "`"))
    return "\n\n".join(lines) + "\n"


def reference() -> str:
    """Commands, plan files, and all that is registered by name."""
    return _NOTE + "\n".join([
        "# Reference\n", "## Plan files\n",
        "A plan is YAML; `version` and `model` come first. What is left out "
        "is replicated.\n",
        table(("version", *(f.name
                            for f in dataclasses.fields(Plan) if f.compare)),
              _PLAN_TEXTS | parameter_texts(Plan)), "\nKeys of `pipeline`:\n",
        table(PipelineSpec.__dataclass_fields__,
              parameter_texts(PipelineSpec)), "\n## Names\n",
        table(RECIPES, {
            n: _summary(b)
            for n, b in RECIPES.items()
        },
              head="recipe"), "\n" + listed("Schedules", schedule_names()),
        listed("Clusters", preset_names()),
        listed("Sources of data", kinds()),
        listed("Printed stages of a kernel",
               PASS_ORDER), "## Numbers of a device\n",
        "In a cluster's YAML, each with a `value` and a `source`; any other "
        "name is refused.\n",
        table(EFFICIENCIES, EFFICIENCIES, head="`efficiencies`, shares"), "",
        table(COEFFICIENTS, COEFFICIENTS, head="`coefficients`"),
        "\n## Commands\n", *map(command, COMMANDS)
    ])


def table(keys: Any, texts: Mapping[str, str], *, head: str = "key") -> str:
    """Two columns."""
    rows = [f"| {head} | |", "| --- | --- |"]
    rows += [f"| `{key}` | {texts[key]} |" for key in keys]
    return "\n".join(rows)


def listed(title: str, names: Any) -> str:
    """Names in one line."""
    return f"{title}: {', '.join(f'`{n}`' for n in names)}.\n"


def _summary(builder: Callable[..., Any]) -> str:
    """The first paragraph of a docstring in one line."""
    first = (inspect.getdoc(builder) or "").partition("\n\n")[0]
    return " ".join(first.split()).replace("``", "`")


def command(module: str) -> str:
    """What a command prints when it is asked for help."""
    name = module.removesuffix(".__main__")
    main = importlib.import_module(module).main
    printed = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="79"), mock.patch.object(
            sys, "argv", [name]), contextlib.redirect_stdout(
                printed), contextlib.suppress(SystemExit):
        main(["--help"])
    return f"### {name}\n\n```text\n{printed.getvalue().strip()}\n```\n"


PAGES: dict[str, Callable[[], str]] = {
    "doc/strategies.md": strategies,
    "doc/reference.md": reference
}


def stale() -> Iterator[tuple[Path, str]]:
    """Pages that are not what they should be, with the right text."""
    for name, made in PAGES.items():
        path, text = ROOT / name, made()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield path, text


def main() -> None:
    argparse.ArgumentParser(prog="python -m scripts.write_reference",
                            description=__doc__.splitlines()[0]).parse_args()
    for path, text in stale():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
