"""Documents as sequences of one length."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from scaletorch.data.options import check_least
from scaletorch.data.registry import register
from scaletorch.data.source import Sample
from scaletorch.data.token_file import TokenFile

__all__ = ["PackedTokens", "packed_file"]

_IGNORED = -100
"""The label that losses leave out."""
_DOCUMENTS = ("join", "reset", "mask")


class PackedTokens:
    """All documents one after another, cut into sequences.

    Every token is in exactly one sequence, but for those left at the end.

    Parameters
    ----------
    tokens : array of int
        Of all documents.
    offsets : array of int64
        Where each document starts, and the last one ends.
    sequence_length : int
    documents : {"join", "reset", "mask"}
        What happens where a document ends inside of a sequence. ``join``:
        nothing. ``reset``: ``position_ids`` of shape (sequence,) start
        anew, and no token is to predict the next document's first.
        ``mask``: besides, ``attention_mask`` of shape (1, sequence,
        sequence) is True where a token may look: at itself and at what is
        before it in its document.
    shift : bool
        Whether ``labels`` are the next tokens. Else they are the tokens
        themselves, for models that shift them, as those of
        ``scaletorch.models`` and Hugging Face do.
    name : str
        Of the data, for errors.

    Raises
    ------
    ValueError
        When there are fewer tokens than one sequence takes.
    """

    def __init__(self,
                 tokens: NDArray[np.integer],
                 offsets: NDArray[np.int64],
                 *,
                 sequence_length: int,
                 documents: str = "join",
                 shift: bool = False,
                 name: str = "the data") -> None:
        check_least(1, sequence_length=sequence_length)
        if documents not in _DOCUMENTS:
            raise ValueError(f"documents must be one of "
                             f"{', '.join(_DOCUMENTS)}, got {documents!r}")
        self._tokens = tokens
        self._offsets = offsets
        self._size = sequence_length
        self._documents = documents
        self._shift = int(shift)
        self._count = (len(tokens) - self._shift) // sequence_length
        if self._count < 1:
            raise ValueError(f"{name} has {len(tokens)} tokens, too few for "
                             f"one sequence of {sequence_length}; give it "
                             "more text or shorter sequences")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        start = index * self._size
        window = np.asarray(
            self._tokens[start:start + self._size + self._shift], np.int64)
        labels = window[self._shift:].copy()
        if self._documents == "join":
            return _tensors(tokens=window[:self._size], labels=labels)
        places = np.arange(start, start + self._size + self._shift)
        number = np.searchsorted(self._offsets, places, side="right")
        first = np.maximum(self._offsets[number - 1], start)
        own = slice(self._size)
        found = _tensors(tokens=window[own],
                         labels=np.where(
                             _is_foreign(number)[self._shift:], _IGNORED,
                             labels),
                         position_ids=(places - first)[own])
        if self._documents == "mask":
            same = number[own, None] == number[None, own]
            found["attention_mask"] = torch.from_numpy(np.tril(same)[None])
        return found


class _PackedFile(PackedTokens):
    """Packed tokens whose workers open the file for themselves."""

    def __init__(self, file: TokenFile, *, sequence_length: int,
                 documents: str, shift: bool, name: str) -> None:
        super().__init__(file.tokens,
                         file.offsets,
                         sequence_length=sequence_length,
                         documents=documents,
                         shift=shift,
                         name=name)
        self._file = file

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        del state["_tokens"], state["_offsets"]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._tokens, self._offsets = self._file.tokens, self._file.offsets


@register("tokens")
def packed_file(*,
                path: str,
                sequence_length: int,
                documents: str = "join",
                shift: bool = False) -> PackedTokens:
    """Packed tokens of a file that ``scaletorch.data prepare`` made.

    Parameters
    ----------
    path : str
    sequence_length : int
        In tokens.
    documents, shift
        See :class:`PackedTokens`.

    Raises
    ------
    ValueError
        When there are fewer tokens than one sequence takes.
    """
    return _PackedFile(TokenFile(path),
                       sequence_length=sequence_length,
                       documents=documents,
                       shift=shift,
                       name=str(path))


def _is_foreign(number: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a token is not of the document of the one before it."""
    return np.concatenate([[False], number[1:] != number[:-1]])


def _tensors(**arrays: NDArray[np.int64]) -> Sample:
    return {
        n: torch.from_numpy(np.ascontiguousarray(a))
        for n, a in arrays.items()
    }
