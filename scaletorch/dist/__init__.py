"""Processes of a job: how they start, who they are, what they exchange.

Everything takes the process, mesh or group that it works on; there is no
global state beside ``torch.distributed``'s own.
"""

from scaletorch.dist.collectives import (all_gather, all_reduce, all_to_all,
                                         barrier, broadcast, gather, reduce,
                                         scatter)
from scaletorch.dist.devices import backend_for, device_for
from scaletorch.dist.environment import Environment, read_environment
from scaletorch.dist.mesh import Mesh, make_mesh
from scaletorch.dist.nested import (all_gather_nested, broadcast_nested,
                                    gather_nested, reduce_nested, sync)
from scaletorch.dist.objects import (all_gather_object, broadcast_object,
                                     gather_object, rank_in, scatter_object,
                                     size_of)
from scaletorch.dist.seeds import axis_generator, axis_seed, seed_everything
from scaletorch.dist.start import Process, init, shutdown
from scaletorch.dist.turns import in_order, main_first
from scaletorch.runtime.ranks import run_ranks

__all__ = [
    "Environment", "Mesh", "Process", "all_gather", "all_gather_nested",
    "all_gather_object", "all_reduce", "all_to_all", "axis_generator",
    "axis_seed", "backend_for", "barrier", "broadcast", "broadcast_nested",
    "broadcast_object", "device_for", "gather", "gather_nested",
    "gather_object", "in_order", "init", "main_first", "make_mesh", "rank_in",
    "read_environment", "reduce", "reduce_nested", "run_ranks", "scatter",
    "scatter_object", "seed_everything", "shutdown", "size_of", "sync"
]
