"""What the stages of a pipeline send each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.cluster.axis import AxisInfo
from planner.cost.collective import collective_time_s
from planner.pipeline.build import Pipelined
from planner.pipeline.stage_cost import wire_bytes

__all__ = ["Edge", "Messages"]

Edge = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """Of one micro-batch, by the stages from and to which.

    Parameters
    ----------
    value_bytes : mapping of (int, int) to int
        Sent in the forward.
    gradient_bytes : mapping of (int, int) to int
        Sent back in the backward, of the values that have a gradient.
    time_s : mapping of (int, int) to float
        Seconds until either has arrived.
    occupancy_s : mapping of (int, int) to float
        For how long it keeps a link busy: its bytes at the link's rate.
    """

    value_bytes: Mapping[Edge, int]
    gradient_bytes: Mapping[Edge, int]
    time_s: Mapping[Edge, float]
    occupancy_s: Mapping[Edge, float]

    @staticmethod
    def of(found: Pipelined, link: AxisInfo) -> Messages:
        """Over the link of the pipeline's axis."""
        values, gradients = dict[Edge, int](), dict[Edge, int]()
        for reader, stage in enumerate(found.stages):
            for name, made in stage.takes.items():
                edge, size = (made, reader), wire_bytes(stage, name)
                values[edge] = values.get(edge, 0) + size
                if stage.program.specs[name].requires_grad:
                    gradients[edge] = gradients.get(edge, 0) + size
        rate = (link.point or link.link).rate_bytes_per_s
        factor = link.link.factor("send")
        return Messages(value_bytes=values,
                        gradient_bytes=gradients,
                        time_s={
                            e: collective_time_s("send", float(n), link)
                            for e, n in values.items()
                        },
                        occupancy_s={
                            e: factor * n / rate
                            for e, n in values.items()
                        })

    def sent(self, owner: Sequence[int],
             microbatches: int) -> tuple[int, int, float]:
        """How many messages all ranks send in a step, their bytes, and the
        seconds that they are on their way.

        Parameters
        ----------
        owner : sequence of int
            The rank of each stage; stages of one send each other nothing.
        microbatches : int
        """
        runs, size_bytes, time_s = 0, 0, 0.0
        for each in (self.value_bytes, self.gradient_bytes):
            for (made, reader), size in each.items():
                if owner[made] != owner[reader]:
                    runs += microbatches
                    size_bytes += microbatches * size
                    time_s += microbatches * self.time_s[made, reader]
        return runs, size_bytes, time_s
