"""Make, check and show token files.

``python -m scaletorch.data prepare --input FILES --output NAME`` tokenises
text, ``check NAME`` compares a file with its checksum, ``show NAME`` prints
what it holds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from scaletorch.data.prepare import prepare
from scaletorch.data.token_file import TokenFile

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 1 where it failed."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.command == "prepare":
            file = prepare(chosen.input,
                           chosen.output,
                           tokenizer=chosen.tokenizer,
                           end=chosen.end,
                           field=chosen.field,
                           split=chosen.split)
        else:
            file = TokenFile(chosen.name)
        if chosen.command == "check":
            file.check()
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(file.tokens):,} tokens in {len(file.offsets) - 1:,} "
          f"documents, {file.tokens.dtype}, vocabulary of "
          f"{file.vocabulary_size:,} ({file.tokenizer})")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scaletorch.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("prepare", help="tokenise text")
    make.add_argument("--input",
                      nargs="+",
                      required=True,
                      metavar="PATH",
                      help=".txt or .jsonl files, or folders of them")
    make.add_argument("--output",
                      required=True,
                      metavar="NAME",
                      help="writes NAME.bin and NAME.json")
    make.add_argument("--tokenizer",
                      default="bytes",
                      metavar="bytes|FILE",
                      help="a tokenizer.json; bytes if left out")
    make.add_argument("--end",
                      metavar="TOKEN",
                      help="the token that ends a document")
    make.add_argument("--field",
                      default="text",
                      help="of JSON lines; text if left out")
    make.add_argument("--split",
                      choices=("file", "line"),
                      default="file",
                      help="what a document of plain text is")
    for name, text in (("check", "compare with the checksum"),
                       ("show", "print what a file holds")):
        commands.add_parser(name, help=text).add_argument("name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
