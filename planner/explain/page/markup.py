"""HTML elements as text that is escaped once and for all."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

__all__ = ["Markup", "element", "join"]

_VOID = ("br", "hr", "img", "input", "link", "meta")


class Markup(str):
    """Text that is HTML already; every other string is escaped."""

    __slots__ = ()


def element(tag: str,
            attributes: Mapping[str, object] | None = None,
            *children: str | Iterable[str]) -> Markup:
    """One element with its children.

    Parameters
    ----------
    tag : str
        Of HTML, or of SVG, which HTML holds as it is.
    attributes : mapping of str to object, optional
        ``True`` gives an attribute without a value, ``None`` and ``False``
        none.
    *children : str or iterable of str
        Escaped, unless they are :class:`Markup`.

    Examples
    --------
    >>> print(element("b", {"title": 'a"b', "hidden": True}, "x < y"))
    <b title="a&quot;b" hidden>x &lt; y</b>
    """
    opened = "".join([tag, *map(_attribute, (attributes or {}).items())])
    if tag in _VOID:
        return Markup(f"<{opened}>")
    return Markup(f"<{opened}>{join(*children)}</{tag}>")


def _attribute(item: tuple[str, object]) -> str:
    name, value = item
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(text)}"'


def join(*children: str | Iterable[str]) -> Markup:
    """Children one after the other, escaped where they need it."""
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(str(child))
        elif isinstance(child, str):
            parts.append(html.escape(child))
        else:
            parts.append(str(join(*child)))
    return Markup("".join(parts))
