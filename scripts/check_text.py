"""Check, or mend, the white space of text files.

``python scripts/check_text.py [--fix] FILE...`` finds carriage returns,
blanks at a line's end, and files that do not end in exactly one newline.
With ``--fix`` it rewrites them; it exits with 1 if it found anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["BINARY_SUFFIXES", "clean", "main"]

BINARY_SUFFIXES = frozenset({".png", ".pt", ".safetensors"})


def clean(data: bytes) -> bytes:
    """Bytes with LF, no trailing blanks, one newline at the end.

    Examples
    --------
    >>> clean(b"a  \\r\\nb")
    b'a\\nb\\n'
    """
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    text = b"\n".join(line.rstrip(b" \t") for line in lines).rstrip(b"\n")
    return text + b"\n" if text else b""


def main(arguments: Sequence[str]) -> int:
    """Check (or with ``--fix`` mend) files; 1 if any was not clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fix", action="store_true")
    parser.add_argument("paths", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    found = 0
    for path in options.paths:
        data = path.read_bytes()
        if path.suffix in BINARY_SUFFIXES or data == clean(data):
            continue
        found = 1
        print(f"{path}: line endings, trailing blanks or final newline")
        if options.fix:
            path.write_bytes(clean(data))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
