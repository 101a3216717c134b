"""Measure, fit and keep a profile of this machine."""

from __future__ import annotations

import logging
import os
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
from planner.profile.store import SpoiltStore, Store

__all__ = ["DEFAULT_BUDGET_S", "POINTS_FILE", "Profile", "profile"]

DEFAULT_BUDGET_S = 60.0
POINTS_FILE = "points-5.sqlite"
"""In the cache folder: raw points of all machines that share it. The number
changes with the way in which points are measured."""

_LOGGER = logging.getLogger("scaletorch")


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
        When no product runs, or the budget did not suffice for one, and
        when the cache can't be used; on all ranks.
    """
    folder = cache_folder() if folder is None else folder
    key = profile_key(job.device.type, job.size)
    points = points_for(job.device.type, job.size, sizes)
    store = _opened(folder, key, job)
    load = job.by_first(lambda: os.getloadavg()[0])
    try:
        outcome = measure_points(points,
                                 job,
                                 store,
                                 budget_s=budget_s,
                                 refresh=refresh)
    finally:
        if store is not None:
            store.close()
    _check_products(outcome)
    path = (local_path(job.device.type, job.size, folder=folder)
            if out is None else out)
    facts = job.together(lambda: device_facts(job))

    def fitted() -> ClusterSpec:
        device = fit_device(outcome.known, facts)
        cluster = fit_cluster(unfitted_cluster(name, device, job.hosts),
                              outcome.known)
        try:
            _write(path, to_yaml(cluster))
        except OSError as error:
            raise ValueError(f"{path} can't be written ({error}); what was "
                             "measured is kept, pass another --out") from error
        return cluster

    # Ranks may round differently; the first one's numbers are everybody's.
    return Profile(cluster=job.by_first(fitted),
                   outcome=outcome,
                   path=path,
                   load=load)


def _opened(folder: Path, key: str, job: Job) -> Store | None:
    """The first rank's store; what it fails with fails all."""
    opened: list[Store] = []
    job.by_first(lambda: opened.append(_store(folder / POINTS_FILE, key)))
    return opened[0] if opened else None


def _store(path: Path, key: str) -> Store:
    """The store in a file, set aside where it is spoilt."""
    try:
        return Store(path, key)
    except SpoiltStore as error:
        aside = path.with_name(f"{path.name}.spoilt")
        os.replace(path, aside)
        _LOGGER.warning(
            "%s can't be read (%s): it is %s now, and all is "
            "measured anew", path, error.__cause__, aside.name)
        return Store(path, key)


def _check_products(outcome: Outcome) -> None:
    """More seconds don't help where products were refused."""
    known = {p.kind for p in outcome.known}
    reasons = [r for p, r in outcome.refused.items() if p.kind == "mm"]
    if reasons and known.isdisjoint(("mm", "linear")):
        raise ValueError(f"products do not run here: {reasons[0]}")


def _write(path: Path, text: str) -> None:
    """Whole or not at all: others may read the file meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with made.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, path)
    finally:
        made.unlink(missing_ok=True)
