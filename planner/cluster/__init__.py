"""The hardware: devices, links, presets, and what a mesh axis uses."""

from planner.cluster.along import devices_along
from planner.cluster.axis import AxisInfo, axis_link
from planner.cluster.load import load_cluster, preset_names
from planner.cluster.spec import (ClusterSpec, Coefficient, DeviceKind, Link,
                                  NodeGroup, Tier)
from planner.cluster.text import from_yaml, to_yaml

__all__ = [
    "AxisInfo", "ClusterSpec", "Coefficient", "DeviceKind", "Link",
    "NodeGroup", "Tier", "axis_link", "devices_along", "from_yaml",
    "load_cluster", "preset_names", "to_yaml"
]
