"""Write fitted numbers of devices into their presets."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from planner.cluster.coefficients import EFFICIENCIES

__all__ = ["with_numbers"]


def with_numbers(text: str, values: Mapping[str, float], source: str) -> str:
    """The text of a preset with other numbers of its device.

    Parameters
    ----------
    text : str
        YAML, with a line of comment first.
    values : mapping of str to float
        By name; `launch_overhead_s` is a field, shares of the peaks are
        efficiencies, and all others coefficients.
    source : str
        Where the numbers come from.
    """
    comment, _, rest = text.partition("\n")
    data = yaml.safe_load(rest)
    device = data["device"]
    for name, value in values.items():
        if name == "launch_overhead_s":
            device[name] = value
            device.setdefault("sources", {})[name] = source
        else:
            kind = "efficiencies" if name in EFFICIENCIES else "coefficients"
            device[kind][name] = {"value": value, "source": source}
    return f"{comment}\n{yaml.safe_dump(data, sort_keys=False)}"
