"""Cluster specs as YAML text: data only, checked, stable.

Sizes are bytes, times seconds, rates per second; ``80e9`` may be written
without the dot that YAML asks for. See the presets for the shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import yaml

from planner.cluster.link import KINDS
from planner.cluster.spec import (ClusterSpec, Coefficient, DeviceKind, Link,
                                  NodeGroup, Tier)
from planner.names import nearest
from planner.yaml_data import read_yaml

__all__ = ["from_yaml", "to_yaml"]

_MOST_SHARE = 2.0
"""Of a peak; what is measured may lie a little above it."""
_UNSOURCED = {"name", "source", "sources", "efficiencies", "coefficients"}
"""Fields that are no numbers, or whose entries have their sources."""


def to_yaml(cluster: ClusterSpec) -> str:
    """Print a cluster; ``from_yaml(to_yaml(x)) == x``."""
    data: dict[str, Any] = {
        "name":
        cluster.name,
        "device":
        _plain_device(cluster.device),
        "tiers": [{
            "name": tier.name,
            "size": tier.size,
            "link": _plain(tier.link)
        } for tier in cluster.tiers]
    }
    if cluster.others:
        data["others"] = [{
            "num_nodes": group.num_nodes,
            "device": _plain_device(group.device)
        } for group in cluster.others]
    if cluster.price_per_device_hour is not None:
        data["price_per_device_hour"] = cluster.price_per_device_hour
    return yaml.safe_dump(data, sort_keys=False, width=79)


def _plain(part: DeviceKind | Link) -> dict[str, Any]:
    """Fields by name, without those that are at their default."""
    data = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if value != field.default:
            data[field.name] = value
    for name in ("factors", "sources"):
        if name in data:
            data[name] = dict(data[name])
    return data


def _plain_device(device: DeviceKind) -> dict[str, Any]:
    data = _plain(device)
    data["peak_flops_per_s"] = dict(device.peak_flops_per_s)
    for name in ("efficiencies", "coefficients"):
        if name in data:
            data[name] = {
                c.name: {
                    "value": c.value,
                    "source": c.source
                }
                for c in data[name]
            }
    return data


def from_yaml(text: str, *, where: str = "cluster YAML") -> ClusterSpec:
    """Parse a cluster.

    Parameters
    ----------
    text : str
        The YAML.
    where : str
        What to call the text in errors, such as its path.

    Raises
    ------
    ValueError
        For unknown or missing keys, and numbers that make no sense.
    """
    data = _fields(read_yaml(text, where), ClusterSpec, where)
    tiers = data["tiers"]
    if not isinstance(tiers, list):
        raise ValueError(f"{where}: tiers must be a list, innermost first")
    try:
        found = ClusterSpec(name=_text(data, "name", where),
                            device=_device(data["device"], f"{where}: device"),
                            tiers=tuple(
                                _tier(t, f"{where}: tiers[{i}]")
                                for i, t in enumerate(tiers)),
                            others=_others(data.get("others", []), where),
                            price_per_device_hour=_price(data, where))
        _check_names(found)
        return found
    except (OverflowError, ValueError) as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: {error}") from error


def _check_names(cluster: ClusterSpec) -> None:
    """Refuse one name for several kinds, which reports tell by it."""
    names = [kind.name for kind in cluster.kinds()]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"several kinds of device with other numbers "
                             f"are called {name!r}; give each a name of its "
                             "own")


def _price(data: Mapping[str, Any], where: str) -> float | None:
    name = "price_per_device_hour"
    return _number(data, name, where) if name in data else None


def _device(raw: Any, where: str) -> DeviceKind:
    data = _fields(raw, DeviceKind, where)
    peaks = _mapping(data["peak_flops_per_s"], f"{where}.peak_flops_per_s")
    return DeviceKind(name=_text(data, "name", where),
                      memory_bytes=int(_number(data, "memory_bytes", where)),
                      memory_bandwidth_bytes_per_s=_number(
                          data, "memory_bandwidth_bytes_per_s", where),
                      peak_flops_per_s=tuple(
                          (_dtype(dtype, f"{where}.peak_flops_per_s"),
                           _number(peaks, dtype, f"{where}.peak_flops_per_s"))
                          for dtype in peaks),
                      launch_overhead_s=_number(data, "launch_overhead_s",
                                                where),
                      efficiencies=_efficiencies(data, where),
                      coefficients=_coefficients(data, "coefficients", where),
                      source=_text(data, "source", where),
                      sources=_sources(data, DeviceKind, where))


def _dtype(name: Any, where: str) -> str:
    """One of torch's, since others would never be found."""
    if isinstance(getattr(torch, str(name), None), torch.dtype):
        return str(name)
    known = [
        n for n in dir(torch) if isinstance(getattr(torch, n), torch.dtype)
    ]
    raise ValueError(f"{where}: {name!r} is no dtype of torch; "
                     f"{nearest(str(name), known)}")


def _efficiencies(data: Mapping[str, Any],
                  where: str) -> tuple[Coefficient, ...]:
    found = _coefficients(data, "efficiencies", where)
    for each in found:
        _check_share(each.value, f"{where}.efficiencies.{each.name}.value")
    return found


def _check_share(value: float, where: str) -> None:
    if value > _MOST_SHARE:
        raise ValueError(f"{where} is a share of the peak, got {value:g}; "
                         "write 0.8 for 80%")


def _others(raw: Any, where: str) -> tuple[NodeGroup, ...]:
    if not isinstance(raw, list):
        raise ValueError(f"{where}: others must be a list of node groups")
    groups = []
    for i, entry in enumerate(raw):
        at = f"{where}: others[{i}]"
        data = _fields(entry, NodeGroup, at)
        groups.append(
            NodeGroup(num_nodes=_whole(data, "num_nodes", at),
                      device=_device(data["device"], f"{at}.device")))
    return tuple(groups)


def _coefficients(data: Mapping[str, Any], key: str,
                  where: str) -> tuple[Coefficient, ...]:
    found = _mapping(data.get(key, {}), f"{where}.{key}")
    return tuple(
        _coefficient(name, found[name], f"{where}.{key}.{name}")
        for name in found)


def _sources(data: Mapping[str, Any], kind: type[DeviceKind | Link],
             where: str) -> tuple[tuple[str, str], ...]:
    """By field, of those that have none in their own entries."""
    found = _mapping(data.get("sources", {}), f"{where}.sources")
    known = {f.name for f in dataclasses.fields(kind)} - _UNSOURCED
    _refuse_unknown(found, sorted(known), f"{where}.sources")
    return tuple(
        (str(name), _text(found, name, f"{where}.sources")) for name in found)


def _coefficient(name: str, raw: Any, where: str) -> Coefficient:
    data = _mapping(raw, where)
    _refuse_unknown(data, ["value", "source"], where)
    return Coefficient(name=name,
                       value=_number(data, "value", where),
                       source=_text(data, "source", where))


def _tier(raw: Any, where: str) -> Tier:
    data = _fields(raw, Tier, where)
    return Tier(name=_text(data, "name", where),
                size=_whole(data, "size", where),
                link=_link(data["link"], f"{where}.link"))


def _whole(data: Mapping[str, Any], key: str, where: str) -> int:
    number = _number(data, key, where)
    if number != int(number):
        raise ValueError(f"{where}.{key} must be whole, got {number:g}")
    return int(number)


def _link(raw: Any, where: str) -> Link:
    data = _fields(raw, Link, where)
    numbers = {
        field.name: _number(data, field.name, where)
        for field in dataclasses.fields(Link)
        if field.name in data and field.type == "float"
    }
    _check_share(numbers.get("efficiency", 1.0), f"{where}.efficiency")
    factors = _mapping(data.get("factors", {}), f"{where}.factors")
    _refuse_unknown(factors, list(KINDS), f"{where}.factors")
    return Link(source=_text(data, "source", where),
                factors=tuple(
                    (str(kind), _number(factors, kind, f"{where}.factors"))
                    for kind in factors),
                sources=_sources(data, Link, where),
                **numbers)


def _mapping(raw: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} must be a mapping, got {raw!r}")
    return raw


def _refuse_unknown(data: Mapping[str, Any], known: list[str],
                    where: str) -> None:
    for key in data:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; "
                             f"{nearest(str(key), known)}")


def _fields(raw: Any, kind: type, where: str) -> Mapping[str, Any]:
    """`raw` as a mapping that has just the fields of dataclass `kind`."""
    data = _mapping(raw, where)
    fields = dataclasses.fields(kind)
    _refuse_unknown(data, [f.name for f in fields], where)
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in data:
            raise ValueError(f"{where}: {field.name} is missing")
    return data


def _number(data: Mapping[str, Any],
            key: str,
            where: str,
            *,
            default: float | None = None) -> float:
    raw = data.get(key, default)
    try:
        # bool is an int to Python but a typing error in a cluster file.
        if isinstance(raw, bool) or raw is None:
            raise TypeError
        return float(raw)
    except (TypeError, ValueError):
        raise ValueError(f"{where}.{key} must be a number, got {raw!r}") \
            from None


def _text(data: Mapping[str, Any], key: str, where: str) -> str:
    raw = data.get(key, "")
    if not isinstance(raw, str):
        raise ValueError(f"{where}.{key} must be text, got {raw!r}")
    return raw
