"""A captured program with more layers like its last one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from planner.ir.program import Block, Program
from planner.rules.registry import TensorSpec

__all__ = ["deepened"]


def deepened(program: Program, layers: int) -> Program:
    """The program with so many more blocks of the kind it has most of.

    What one block of them hands to the next, each new one takes from the
    one before it; parameters are its own, under the names that they would
    have, and what all read is shared.

    Parameters
    ----------
    program : Program
        Its last block but those of other kinds is ``NAME.NUMBER``.
    layers : int
        Nothing changes where there are none.
    """
    if layers <= 0:
        return program
    counts = Counter(b.block_class for b in program.blocks)
    kind = max(counts, key=lambda name: counts[name])
    place = max(n for n, b in enumerate(program.blocks)
                if b.block_class == kind)
    last = program.blocks[place]
    before = next(b for b in reversed(program.blocks[:place])
                  if b.block_class == kind)
    stem, _, number = last.name.rpartition(".")
    blocks, specs = [last], dict[str, TensorSpec]()
    for depth in range(int(number) + 1, int(number) + 1 + layers):
        block = _next(last, before, blocks[-1], f"{stem}.{depth}")
        specs.update(_specs(program.specs, last, block))
        blocks.append(block)
    given = dict(zip(last.results, blocks[-1].results, strict=True))
    after = [
        dataclasses.replace(b,
                            name=_later(b.name, layers),
                            operands=tuple(
                                given.get(n, n) for n in b.operands))
        for b in program.blocks[place + 1:]
    ]
    return dataclasses.replace(program,
                               blocks=(*program.blocks[:place], *blocks,
                                       *after),
                               specs={
                                   **program.specs,
                                   **specs
                               },
                               outputs=tuple(n and given.get(n, n)
                                             for n in program.outputs))


def _next(last: Block, before: Block, previous: Block, name: str) -> Block:
    """A block after `previous`, as `last` comes after `before`."""
    handed = dict(zip(before.results, previous.results, strict=True))
    return dataclasses.replace(
        last,
        name=name,
        operands=tuple(
            handed.get(n, _renamed(n, last.name, name))
            for n in last.operands),
        results=tuple(f"{name}.{n}" for n in range(len(last.results))))


def _later(name: str, layers: int) -> str:
    """What lies between modules is called after its place."""
    stem, _, number = name.rpartition(".")
    return f"{stem}.{int(number) + layers}" if stem == "glue" else name


def _renamed(value: str, old: str, new: str) -> str:
    kind, _, path = value.partition(":")
    own = path.startswith(f"{old}.")
    return f"{kind}:{new}{path.removeprefix(old)}" if own else value


def _specs(specs: Mapping[str, TensorSpec], last: Block,
           block: Block) -> dict[str, TensorSpec]:
    """Of what a new block has for its own."""
    return {
        new: specs[old]
        for old, new in zip(last.operands, block.operands, strict=True)
        if new != old and old in specs
    }
