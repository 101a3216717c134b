"""Text to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["BytesTokenizer", "FileTokenizer", "Tokenizer", "load_tokenizer"]

_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]",
         "<|im_end|>")


class Tokenizer(Protocol):
    """What makes tokens of text.

    Attributes
    ----------
    name : str
    vocabulary_size : int
    end : int or None
        The token that ends a document.
    """

    name: str
    vocabulary_size: int
    end: int | None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, without special ones."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""


class BytesTokenizer:
    """Every byte of UTF-8 is a token, and 256 ends a document.

    Examples
    --------
    >>> BytesTokenizer().encode(["hi"])
    [[104, 105]]
    """

    name = "bytes"
    vocabulary_size = 257
    end: int | None = 256

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text."""
        return [list(t.encode("utf-8")) for t in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; a broken character becomes U+FFFD."""
        return bytes(t for t in tokens if t < 256).decode("utf-8", "replace")


class FileTokenizer:
    """A ``tokenizer.json`` of the `tokenizers` package.

    Parameters
    ----------
    path : str or Path
    end : str, optional
        The token that ends a document; left out, the first of the usual
        ones that the vocabulary has.

    Raises
    ------
    ImportError
        Without the `tokenizers` package.
    FileNotFoundError, ValueError
        Naming the file.
    """

    def __init__(self, path: str | Path, *, end: str | None = None) -> None:
        self._inner = _read(Path(path))
        self.name = Path(path).name
        self.vocabulary_size: int = self._inner.get_vocab_size()
        names = _ENDS if end is None else (end, )
        ids = [self._inner.token_to_id(n) for n in names]
        self.end: int | None = next((i for i in ids if i is not None), None)
        if end is not None and self.end is None:
            raise ValueError(f"{path} has no token {end!r} to end documents; "
                             "name one of its vocabulary")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, without special ones."""
        found = self._inner.encode_batch(list(texts), add_special_tokens=False)
        return [e.ids for e in found]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return self._inner.decode(list(tokens))


def load_tokenizer(name: str | Path, *, end: str | None = None) -> Tokenizer:
    """``"bytes"``, or the tokenizer of a file.

    Raises
    ------
    ImportError, FileNotFoundError, ValueError
        See :class:`FileTokenizer`.
    """
    if str(name) == "bytes":
        if end is not None:
            raise ValueError("the bytes tokenizer ends documents with 256; "
                             "leave the end token out")
        return BytesTokenizer()
    return FileTokenizer(name, end=end)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer {path}; give a "
                                "tokenizer.json, or \"bytes\"")
    try:
        import tokenizers
    except ImportError:
        raise ImportError(f"{path} needs the package tokenizers: pip install "
                          "tokenizers, or use the tokenizer \"bytes\"") \
            from None
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain Exception
        raise ValueError(f"{path} is no tokenizer file: {error}") from None
