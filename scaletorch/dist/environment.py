"""What launchers tell a process of a job: its rank and where to meet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Environment", "first_host", "read_environment"]

DEFAULT_PORT = 29500


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A process as its launcher describes it.

    Parameters
    ----------
    launcher : str
        ``"torchrun"``, ``"slurm"``, ``"openmpi"``, ``"pmi"`` (MPICH and
        others) or ``"none"``.
    rank, world_size : int
    local_rank, local_world_size : int
        Of the processes on this host; the size is 0 where it is not known.
    host, port : str, int
        Where rank 0 (or torchrun's agent) listens; empty and 0 for a
        process alone.
    restart : int
        How often the job was started before.
    agent_store : bool
        Whether torchrun's agent listens, and not rank 0.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    host: str = ""
    port: int = 0
    restart: int = 0
    agent_store: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"{self.launcher}: rank {self.rank} is not one of "
                f"{self.world_size} ranks; the environment mixes two "
                "launches, so unset what an outer one left")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Launcher:
    """The names of a launcher's variables."""

    name: str
    rank: str
    size: str
    local_rank: tuple[str, ...]
    local_size: tuple[str, ...]
    remedy: str


_TORCHRUN = _Launcher(name="torchrun",
                      rank="RANK",
                      size="WORLD_SIZE",
                      local_rank=("LOCAL_RANK", ),
                      local_size=("LOCAL_WORLD_SIZE", ),
                      remedy="start the program with torchrun, or set "
                      "RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and "
                      "MASTER_PORT for every process")
_OTHERS = (_Launcher(name="openmpi",
                     rank="OMPI_COMM_WORLD_RANK",
                     size="OMPI_COMM_WORLD_SIZE",
                     local_rank=("OMPI_COMM_WORLD_LOCAL_RANK", ),
                     local_size=("OMPI_COMM_WORLD_LOCAL_SIZE", ),
                     remedy="start the program with Open MPI's mpirun"),
           _Launcher(name="slurm",
                     rank="SLURM_PROCID",
                     size="SLURM_NTASKS",
                     local_rank=("SLURM_LOCALID", ),
                     local_size=(),
                     remedy="start the program with srun"),
           _Launcher(name="pmi",
                     rank="PMI_RANK",
                     size="PMI_SIZE",
                     local_rank=("MPI_LOCALRANKID", "PMI_LOCAL_RANK",
                                 "MV2_COMM_WORLD_LOCAL_RANK"),
                     local_size=("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE",
                                 "MV2_COMM_WORLD_LOCAL_SIZE"),
                     remedy="start the program with mpiexec"))


def read_environment(variables: Mapping[str, str]) -> Environment:
    """Find out how this process was launched.

    torchrun's variables count first, since it also runs inside of SLURM
    and MPI jobs.

    Parameters
    ----------
    variables : mapping of str to str
        As a rule ``os.environ``.

    Raises
    ------
    ValueError
        Naming the variable that is missing or wrong, and what to do.
    """
    if "RANK" in variables or "WORLD_SIZE" in variables:
        return _environment(_TORCHRUN, variables)
    for launcher in _OTHERS:
        if launcher.rank in variables:
            # A batch script has a rank as well, and no peers.
            if launcher.name == "slurm" and "SLURM_STEP_ID" not in variables:
                _refuse_batch_script(variables)
                continue
            return _environment(launcher, variables)
    return Environment(launcher="none",
                       rank=0,
                       world_size=1,
                       local_rank=0,
                       local_world_size=1)


def _refuse_batch_script(variables: Mapping[str, str]) -> None:
    if variables.get("SLURM_NTASKS", "1") != "1":
        raise ValueError(
            "slurm: SLURM_STEP_ID is not set, but the job has "
            f"{variables['SLURM_NTASKS']} tasks: this process would wait for "
            "the others; start the program with srun or torchrun")


def _environment(launcher: _Launcher, variables: Mapping[str,
                                                         str]) -> Environment:
    rank = _number(launcher, variables, launcher.rank)
    size = _number(launcher, variables, launcher.size)
    local_size = next((_number(launcher, variables, n)
                       for n in launcher.local_size if n in variables), 0)
    if size == 1:
        local_size = 1
    if launcher.name == "slurm":
        local_size = _slurm_local_size(variables)
    alone = local_size == size
    names = [n for n in launcher.local_rank if n in variables]
    if not names and not alone:
        raise _missing(launcher, " or ".join(launcher.local_rank))
    local_rank = _number(launcher, variables, names[0]) if names else rank
    host, port = "", 0
    if size > 1:
        host = _host(launcher, variables, alone)
        port = _port(launcher, variables, alone)
    return Environment(
        launcher=launcher.name,
        rank=rank,
        world_size=size,
        local_rank=local_rank,
        local_world_size=local_size,
        host=host,
        port=port,
        restart=int(variables.get("TORCHELASTIC_RESTART_COUNT", "0")),
        agent_store=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True")


def _number(launcher: _Launcher, variables: Mapping[str, str],
            name: str) -> int:
    if name not in variables:
        raise _missing(launcher, name)
    try:
        return int(variables[name])
    except ValueError:
        raise ValueError(f"{launcher.name}: {name} is {variables[name]!r}, "
                         f"which is no number; {launcher.remedy}") from None


def _missing(launcher: _Launcher, name: str) -> ValueError:
    return ValueError(f"{launcher.name}: the environment variable {name} is "
                      f"not set; {launcher.remedy}")


def _slurm_local_size(variables: Mapping[str, str]) -> int:
    """Of ``SLURM_STEP_TASKS_PER_NODE``, such as ``4(x2),3``."""
    text = (variables.get("SLURM_STEP_TASKS_PER_NODE")
            or variables.get("SLURM_TASKS_PER_NODE", ""))
    counts: list[int] = []
    for count, repeated in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(repeated or 1)
    node = int(variables.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else 0


def _host(launcher: _Launcher, variables: Mapping[str, str],
          alone: bool) -> str:
    if "MASTER_ADDR" in variables:
        return variables["MASTER_ADDR"]
    hosts = variables.get("SLURM_STEP_NODELIST") or variables.get(
        "SLURM_JOB_NODELIST")
    if launcher.name == "slurm" and hosts:
        return first_host(hosts)
    if alone and launcher is not _TORCHRUN:
        return "127.0.0.1"
    raise ValueError(
        f"{launcher.name}: the environment variable MASTER_ADDR is not set; "
        f"set it to the host of rank 0 for every process, or "
        f"{_TORCHRUN.remedy.partition(',')[0]}")


def _port(launcher: _Launcher, variables: Mapping[str, str],
          alone: bool) -> int:
    if "MASTER_PORT" in variables:
        return _number(launcher, variables, "MASTER_PORT")
    if launcher.name == "slurm":
        # Jobs that share a host must not meet each other.
        job = int(variables.get("SLURM_JOB_ID", "0"))
        step = int(variables.get("SLURM_STEP_ID", "0"))
        return 20000 + (job * 31 + step) % 20000
    if alone and launcher is not _TORCHRUN:
        return DEFAULT_PORT
    raise ValueError(
        f"{launcher.name}: the environment variable MASTER_PORT is not set; "
        "set it to a free port of rank 0's host for every process, or "
        f"{_TORCHRUN.remedy.partition(',')[0]}")


def first_host(hosts: str) -> str:
    """The first host of a SLURM list.

    Raises
    ------
    ValueError
        When `hosts` is empty.

    Examples
    --------
    >>> first_host("gpu[07-12,15],login1")
    'gpu07'
    """
    match = re.match(r"([^\[,\s]+)(?:\[([0-9]+)[^\]]*\]([^,\s\[]*))?",
                     hosts.strip())
    if match is None:
        raise ValueError(f"{hosts!r} is no list of hosts; set MASTER_ADDR to "
                         "the host of rank 0")
    return match[1] + (match[2] or "") + (match[3] or "")
