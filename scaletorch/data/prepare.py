"""Text to token files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from scaletorch.data.text import documents_of, encoded, text_files
from scaletorch.data.token_file import TokenFile, TokenWriter
from scaletorch.data.tokenizer import load_tokenizer

__all__ = ["prepare"]


def prepare(inputs: Sequence[str | Path],
            output: str | Path,
            *,
            tokenizer: str = "bytes",
            end: str | None = None,
            field: str = "text",
            split: str = "file",
            progress: bool | None = None) -> TokenFile:
    """Tokenise text into a file that loaders map into memory.

    Parameters
    ----------
    inputs : sequence of path
        ``.txt`` and ``.jsonl`` files, or folders of them, in this order.
    output : path
        Without suffix; there is nothing under it until all is written.
    tokenizer : str
        ``"bytes"`` or a ``tokenizer.json``.
    end : str, optional
        The token that ends a document.
    field : str
        Of JSON lines.
    split : {"file", "line"}
        Whether a plain text is one document, or each of its lines.
    progress : bool, optional
        Whether to show a bar; left out, on terminals.

    Returns
    -------
    TokenFile

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        Naming the file, and the line, that can't be used.
    """
    files = text_files(inputs)
    made = load_tokenizer(tokenizer, end=end)
    size_bytes = sum(f.stat().st_size for f in files)
    with tqdm(total=size_bytes,
              unit="B",
              unit_scale=True,
              desc="tokenising",
              disable=None if progress is None else not progress) as bar, \
            TokenWriter(output,
                        vocabulary_size=made.vocabulary_size,
                        tokenizer=made.name) as writer:
        texts = itertools.chain.from_iterable(
            documents_of(f, field=field, split=split, progress=bar.update)
            for f in files)
        for tokens in encoded(texts, made):
            writer.add(tokens)
    return TokenFile(output)
