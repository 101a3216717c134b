"""Processes of a job: how they start, who they are, what they exchange.

Everything takes the process, mesh or group that it works on; there is no
global state beside ``torch.distributed``'s own.
"""

from scaletorch.dist.devices import backend_for, device_for
from scaletorch.dist.environment import Environment, read_environment
from scaletorch.dist.start import Process, init, shutdown
from scaletorch.runtime.ranks import run_ranks

__all__ = [
    "Environment", "Process", "backend_for", "device_for", "init",
    "read_environment", "run_ranks", "shutdown"
]
