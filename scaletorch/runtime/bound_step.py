"""The steps of a rank's program, resolved for the executor."""

from __future__ import annotations

from dataclasses import dataclass

from passes.steps import RankProgram
from scaletorch.runtime.reduction import Route

__all__ = ["BoundStep", "bind_steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundStep:
    """One step with names resolved.

    Parameters
    ----------
    kernel : str
    operands, results : tuple of str
        Where a parameter is used as it rests, by its name at rest.
    again : frozenset of str
        Operands that the backward gathers again instead of keeping them.
    routes : tuple of (Route or None)
        How each operand's gradient gets back to rest; None: it is another
        value's gradient.
    dies : tuple of str
        Values that no later step reads.
    """

    kernel: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    again: frozenset[str]
    routes: tuple[Route | None, ...]
    dies: tuple[str, ...]


def bind_steps(program: RankProgram) -> tuple[BoundStep, ...]:
    """Resolve the steps of a program."""
    dies = _last_reads(program)
    return tuple(
        BoundStep(kernel=step.kernel,
                  operands=tuple(step.moves[n].source if n in step.moves
                                 and not step.moves[n].moves_forward else n
                                 for n in step.operands),
                  results=step.results,
                  again=frozenset(n for n, m in step.moves.items()
                                  if m.regather and m.moves_forward),
                  routes=tuple(
                      Route.of(step.moves[n]) if n in step.moves else None
                      for n in step.operands),
                  dies=tuple(dies[number]))
        for number, step in enumerate(program.steps))


def _last_reads(program: RankProgram) -> list[list[str]]:
    """Which values each step is the last to read."""
    keep = {n for n in program.outputs if n} | set(program.mutations.values())
    keep |= {
        m.source
        for s in program.steps
        for m in s.moves.values() if not m.moves_forward
    }
    last: dict[str, int] = {}
    for number, step in enumerate(program.steps):
        for name in (*step.operands, *step.results):
            last[name] = number
    dies: list[list[str]] = [[] for _ in program.steps]
    for name, number in last.items():
        if name not in keep:
            dies[number].append(name)
    return dies
