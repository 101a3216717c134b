"""Options out of einsum-like factor strings, and other small builders.

``"mk,nk->mn"`` says which letters index which operand of a product: each
letter may be sharded, in every operand that has it; a letter that the
output lacks is contracted, which leaves a partial sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from planner.ir.layout import P, Placement, R, S
from planner.rules.registry import Arg, OpCall, Option, TensorSpec

__all__ = [
    "LETTERS", "broadcast_letters", "einsum_options", "number", "partial",
    "place", "shard"
]

LETTERS = "abcdefghijlopqrstuvwxyz"
"""Letters for batch dims; rules keep k, m and n for the product's own."""


def number(arg: object) -> int | None:
    """The input number of a tensor argument, None for anything else."""
    return arg.index if isinstance(arg, Arg) else None


def place(call: OpCall,
          inputs: Mapping[int | None, Placement],
          outputs: Placement | Sequence[Placement],
          *,
          lowering: str | None = None,
          units: int = 0) -> Option:
    """An option by input number; inputs that are not named are whole.

    An input number of None (an absent optional tensor) is left out. One
    output placement stands for all outputs.
    """
    count = len(call.outputs)
    made = ((outputs, ) *
            count if isinstance(outputs, Placement) else tuple(outputs))
    assert len(made) == count, (call.target, made)
    return Option(inputs=tuple(
        inputs.get(i, R) for i in range(len(call.inputs))),
                  outputs=made,
                  lowering=lowering,
                  units=units)


def shard(call: OpCall,
          inputs: Sequence[int | None],
          outputs: int | None | Sequence[int | None],
          *,
          lowering: str | None = None) -> Option:
    """An option by dims: for every input and output, its dim or None."""
    if outputs is None or isinstance(outputs, int):
        outputs = (outputs, ) * len(call.outputs)
    return Option(inputs=tuple(R if d is None else S(d) for d in inputs),
                  outputs=tuple(R if d is None else S(d) for d in outputs),
                  lowering=lowering)


def partial(call: OpCall, *inputs: int | None) -> Option:
    """Partial sums pass from the named inputs (all, if none) to all outputs.
    """
    which = inputs or range(len(call.inputs))
    return place(call, {i: P for i in which}, P)


def broadcast_letters(ndim: int, of: int, letters: str = LETTERS) -> str:
    """Letters of an operand's `ndim` dims, aligned right among `of` dims."""
    assert ndim <= of <= len(letters)
    return letters[of - ndim:of]


def einsum_options(call: OpCall,
                   equation: str,
                   *,
                   operands: Sequence[int | None] | None = None,
                   added: Mapping[int | None, str] | None = None,
                   added_lowering: str | None = None,
                   only: str | None = None) -> Iterator[Option]:
    """Options of a product of operands, plus added terms.

    Parameters
    ----------
    call : OpCall
    equation : str
        Factor string. A size of 1 where another operand has more is
        broadcast and stays whole.
    operands : sequence of int, optional
        Input numbers of the factors; 0, 1, ... if left out.
    added : mapping of int to str, optional
        Letters of inputs that are added to the product. Under a
        contraction they are taken as partial sums too.
    added_lowering : str, optional
        Lowering for contractions that take the added terms whole.
    only : str, optional
        The letters that may be sharded; all if left out.

    Yields
    ------
    Option
        One for each letter, one for each operand whose partial sums pass.
    """
    left, output = equation.split("->")
    terms = left.split(",")
    numbers = list(range(len(terms)) if operands is None else operands)
    names = dict(zip(numbers, terms, strict=True))
    plus: dict[int | None, str] = {
        i: t
        for i, t in (added or {}).items() if i is not None
    }
    for letter in dict.fromkeys("".join(terms)):
        if only is not None and letter not in only:
            continue
        inputs = _sharded(call, letter, names)
        if not inputs:
            continue
        if letter in output:
            yield place(call, {
                **inputs,
                **_sharded(call, letter, plus)
            }, S(output.index(letter)))
            continue
        yield place(call, {**inputs, **{i: P for i in plus}}, P)
        if plus and added_lowering:
            yield place(call, inputs, P, lowering=added_lowering)
    for i in numbers:
        yield partial(call, i, *plus)


def _sharded(call: OpCall, letter: str,
             terms: Mapping[int | None, str]) -> dict[int | None, Placement]:
    """Placements of the operands that have a letter and do not broadcast."""
    return {
        i: S(term.index(letter))
        for i, term in terms.items() if i is not None and letter in term
        and _size(call.inputs[i], term, letter) != 1
    }


def _size(spec: TensorSpec, term: str, letter: str) -> int:
    assert len(term) == spec.ndim, (term, spec)
    return spec.shape[term.index(letter)]
