"""What the machine says about itself."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from planner.profile.fit_device import DeviceFacts
from planner.profile.job import Job
from planner.profile.place import most_on_one_machine

__all__ = ["device_facts"]

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def device_facts(job: Job) -> DeviceFacts:
    """Name and memory of the job's devices.

    Processes on the CPUs of one machine share its memory evenly.
    """
    if job.device.type == "cpu":
        threads = torch.get_num_threads()
        sharing = most_on_one_machine(job.places)
        return DeviceFacts(name=f"{platform.machine()}, {threads} thread"
                           f"{'s' if threads > 1 else ''}",
                           memory_bytes=_machine_memory_bytes() // sharing)
    module = torch.get_device_module(job.device.type)
    properties = module.get_device_properties(job.device)
    return DeviceFacts(name=module.get_device_name(job.device),
                       memory_bytes=int(properties.total_memory))


def _machine_memory_bytes() -> int:
    """What there is, or what a container may use of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
