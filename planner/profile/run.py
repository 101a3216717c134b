"""Measure, fit and keep a profile of this machine."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from planner.cluster.local import LOCAL, cache_folder, local_path, profile_key
from planner.cluster.spec import ClusterSpec
from planner.cluster.text import to_yaml
from planner.profile.fit_device import fit_device
from planner.profile.fit_link import fit_cluster, unfitted_cluster
from planner.profile.job import Job
from planner.profile.machine import device_facts
from planner.profile.measure import Outcome, measure_points
from planner.profile.points import Sizes, points_for
from planner.profile.store import Store

__all__ = ["DEFAULT_BUDGET_S", "POINTS_FILE", "Profile", "profile"]

DEFAULT_BUDGET_S = 60.0
POINTS_FILE = "points-5.sqlite"
"""In the cache folder: raw points of all machines that share it. The number
changes with the way in which points are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A cluster and what it was fitted on.

    Parameters
    ----------
    cluster : ClusterSpec
    outcome : Outcome
    path : Path
        The YAML file.
    load : float
        Of the first rank's host before measuring: how many processes
        wanted a processor in the last minute.
    """

    cluster: ClusterSpec
    outcome: Outcome
    path: Path
    load: float = 0.0


def profile(job: Job,
            *,
            budget_s: float = DEFAULT_BUDGET_S,
            refresh: bool = False,
            folder: Path | None = None,
            out: Path | None = None,
            name: str = LOCAL,
            sizes: Sizes | None = None) -> Profile:
    """Measure this machine, all ranks at once, and write its cluster.

    Points that the cache has are not measured again, so that a run which
    was stopped goes on where it was.

    Parameters
    ----------
    job : Job
    budget_s : float
        No measurement is begun after so many seconds.
    refresh : bool
        Measure what the cache has too.
    folder : Path, optional
        The cache; the user's if left out.
    out : Path, optional
        The YAML file; left out, where :func:`find_local` finds it.
    name : str
        Of the cluster.
    sizes : Sizes, optional
        Of what is measured; left out, those for the type of device.

    Returns
    -------
    Profile
        The same on every rank.

    Raises
    ------
    ValueError
        When the budget did not suffice for one product, and when the cache
        can't be used.
    """
    folder = cache_folder() if folder is None else folder
    key = profile_key(job.device.type, job.size)
    points = points_for(job.device.type, job.size, sizes)
    store = _opened(folder, key, job)
    load = job.first(os.getloadavg()[0])
    try:
        outcome = measure_points(points,
                                 job,
                                 store,
                                 budget_s=budget_s,
                                 refresh=refresh)
    finally:
        if store is not None:
            store.close()
    device = fit_device(outcome.known, device_facts(job))
    cluster = fit_cluster(unfitted_cluster(name, device, job.hosts),
                          outcome.known)
    # Ranks may round differently; the first one's numbers are everybody's.
    cluster = job.first(cluster)
    path = (local_path(job.device.type, job.size, folder=folder)
            if out is None else out)
    if job.is_first:
        _write(path, to_yaml(cluster))
    return Profile(cluster=cluster, outcome=outcome, path=path, load=load)


def _opened(folder: Path, key: str, job: Job) -> Store | None:
    """The first rank's store; what it fails with fails all."""
    store, message = None, ""
    if job.is_first:
        try:
            store = Store(folder / POINTS_FILE, key)
        except (OSError, ValueError) as error:
            message = str(error)
    message = job.first(message)
    if message:
        raise ValueError(message)
    return store


def _write(path: Path, text: str) -> None:
    """Whole or not at all: others may read the file meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=".profile-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(made, path)
