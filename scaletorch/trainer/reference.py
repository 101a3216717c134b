"""The config's keys as a table, from the dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any

from scaletorch.trainer.config import Config
from scaletorch.trainer.typed import described, to_mapping

__all__ = ["parameter_texts", "reference"]


def reference() -> str:
    """All keys in Markdown, section by section."""
    parts = ["| key | value | default | |", "| --- | --- | --- | --- |"]
    parts += [f"| {' | '.join(row)} |" for row in _rows(Config, "")]
    return "\n".join(parts)


def _rows(cls: type, path: str) -> Iterator[tuple[str, str, str, str]]:
    hints = typing.get_type_hints(cls)
    texts = parameter_texts(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], f"{path}{field.name}"
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield f"**`{key}`**", "", "", texts[field.name]
            yield from _rows(hint, f"{key}.")
        else:
            yield (f"`{key}`", described(hint), _default(field),
                   texts[field.name])


def parameter_texts(cls: type) -> dict[str, str]:
    """What the docstring says of each parameter."""
    section = (inspect.getdoc(cls) or "").partition("----------\n")[2]
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in section.splitlines():
        head = re.match(r"(\w[\w, ]*) : ", line)
        if head:
            names = head[1].split(", ")
        else:
            for name in names:
                found.setdefault(name, []).append(line.strip())
    return {
        n: " ".join(lines).replace("``", "`")
        for n, lines in found.items()
    }


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = to_mapping(field.default)
    elif field.default_factory is not dataclasses.MISSING:
        value = to_mapping(field.default_factory())
    else:
        return "required"
    known = {True: "true", False: "false", None: "null"}
    return f"`{known[value] if value is None or value is True or value is False else value}`"
