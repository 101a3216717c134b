"""Numbers as people read them, quantities in three digits."""

from __future__ import annotations

__all__ = ["bar", "counted", "format_bytes", "format_number", "format_time"]


def format_time(time_s: float) -> str:
    """A time with its unit.

    Examples
    --------
    >>> format_time(0.00123), format_time(0.0)
    ('1.23 ms', '0 s')
    """
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(time_s) >= factor:
            return f"{time_s / factor:.3g} {unit}"
    return f"{time_s / 1e-6:.3g} us" if time_s else "0 s"


def format_bytes(size_bytes: float) -> str:
    """A size with its unit.

    Examples
    --------
    >>> format_bytes(3 * 2**20)
    '3 MiB'
    """
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(size_bytes) >= 2**(10 * power):
            return f"{size_bytes / 2**(10 * power):.4g} {unit}"
    return f"{size_bytes:.0f} B"


def format_number(number: float) -> str:
    """A plain number: three digits, thousands set off, no exponent.

    Examples
    --------
    >>> format_number(12345.6), format_number(0.01234)
    ('12,300', '0.0123')
    """
    if abs(number) >= 1000:
        digits = len(str(int(abs(number)))) - 3
        return f"{round(number, -digits):,.0f}"
    return f"{number:.3g}"


def counted(number: int, noun: str) -> str:
    """A number of things.

    Examples
    --------
    >>> counted(1, "plan"), counted(1200, "plan")
    ('1 plan', '1,200 plans')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def bar(share: float, *, width: int = 30) -> str:
    """A share of one as a bar.

    Examples
    --------
    >>> bar(0.5, width=4)
    '##..'
    """
    filled = round(width * min(max(share, 0.0), 1.0))
    return "#" * filled + "." * (width - filled)
