"""Parameters that ranks of several stages hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch

from planner.pipeline.holders import holders_of
from planner.pipeline.stages import Stage
from scaletorch.runtime.pipeline.axes import StageAxes
from scaletorch.runtime.pipeline.transport import Pending, Transport

__all__ = ["Ties"]


class Ties:
    """Parameters that ranks of several stages hold."""

    def __init__(self, stages: Sequence[Stage], owner: Sequence[int],
                 place: StageAxes, transport: Transport) -> None:
        self.place = place
        self.transport = transport
        specs = {n: s.program.specs[n] for s in stages for n in s.params}
        self.trained = {n for n, s in specs.items() if s.requires_grad}
        self.held = {
            n: h
            for n, h in holders_of(stages, owner,
                                   place.pipeline.size()).items()
            if len(h) > 1 and place.rank in h
        }

    @torch.no_grad()
    def spread(self, local: Mapping[str, torch.Tensor]) -> None:
        """The first holder's values on all of them."""
        for name, holders in self.held.items():
            value = local[name]
            if holders[0] == self.place.rank:
                sent = [self.transport.send(value, h) for h in holders[1:]]
                for pending in sent:
                    pending.wait()
            else:
                value.copy_(self._received(value, holders[0]).wait())

    def _received(self, like: torch.Tensor, peer: int) -> Pending:
        return self.transport.receive(like.shape, like.dtype, like.device,
                                      peer)

    def is_first(self, name: str) -> bool:
        """Whether this rank is the one that a parameter counts for."""
        return self.held.get(name, (self.place.rank, ))[0] == self.place.rank

    def sum_over_holders(self, grads: dict[str, torch.Tensor],
                         local: Mapping[str, torch.Tensor]) -> None:
        """Every holder gets the whole gradient."""
        for name, holders in self.held.items():
            if name not in self.trained:
                continue
            grad = grads.get(name)
            if grad is None:
                grad = torch.zeros_like(local[name])
            own = grad.detach().contiguous()
            others = [h for h in holders if h != self.place.rank]
            sent = [self.transport.send(own, h) for h in others]
            found = {h: self._received(own, h) for h in others}
            # In the same order on all, so that the sums are equal.
            grads[name] = reduce(torch.add, [
                own if h == self.place.rank else found[h].wait()
                for h in holders
            ])
            for pending in sent:
                pending.wait()
