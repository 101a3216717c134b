"""Names of a device's numbers, against the code that reads them."""

from __future__ import annotations

import ast
import functools
import unittest
from collections.abc import Iterator
from pathlib import Path

import planner
from planner.cluster.coefficients import COEFFICIENTS, EFFICIENCIES, FUNCTIONS
from planner.cluster.device import Coefficient, DeviceKind
from planner.cluster.link import KINDS, Link, Tier
from planner.cluster.spec import ClusterSpec
from planner.cluster.text import from_yaml, to_yaml
from planner.cost.collective import COLLECTIVES
from planner.cost.elementwise import _FUNCTIONS
from planner.profile import fit_device

_ROOT = Path(planner.__file__).parent
_OWN = _ROOT / "cluster" / "coefficients.py"
_TOLD = {"adamw_foreach_parameter_s", "adamw_foreach_share", "allocator_ratio"}
"""What a profile measures and nothing reads."""


@functools.cache
def _trees() -> list[tuple[Path, ast.Module]]:
    """Of every file that may read a number of a device."""
    return [(path, ast.parse(text))
            for folder in ("planner", "passes", "scaletorch", "scripts")
            for path in sorted((_ROOT.parent / folder).rglob("*.py"))
            if "oefficien" in (
                text := path.read_text("utf-8")) or "fficienc" in text]


def _reads(method: str) -> Iterator[ast.expr]:
    """First arguments of calls of `method` all over the tree."""
    for _, tree in _trees():
        for node in ast.walk(tree):
            if (isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr == method):
                yield node.args[0]


def _literals(method: str) -> set[str]:
    return {
        str(a.value)
        for a in _reads(method) if isinstance(a, ast.Constant)
    }


def _texts() -> set[str]:
    """Every text of theirs but the names themselves."""
    return {
        node.value
        for path, tree in _trees() if path != _OWN for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


class TestNames(unittest.TestCase):

    def test_what_is_read_has_a_name(self) -> None:
        self.assertGreater(len(_literals("coefficient")), 20)
        self.assertLessEqual(_literals("coefficient"), set(COEFFICIENTS))
        self.assertGreater(len(_literals("efficiency")), 4)
        self.assertLessEqual(_literals("efficiency"), set(EFFICIENCIES))

    def test_names_that_are_put_together_are_of_functions(self) -> None:
        made = {
            ast.unparse(a)
            for a in _reads("coefficient") if not isinstance(a, ast.Constant)
        }
        self.assertEqual(made,
                         {"f'{function}_s_per_byte'", "f'{name}_s_per_byte'"})
        self.assertEqual(set(FUNCTIONS), set(_FUNCTIONS))

    def test_what_has_a_name_is_read(self) -> None:
        of_functions = {
            f"{n}{way}_s_per_byte"
            for n in FUNCTIONS
            for way in ("", "_backward")
        }
        self.assertEqual(_literals("coefficient"),
                         set(COEFFICIENTS) - of_functions - _TOLD)
        # "first_" and "second_" are put before "attention".
        self.assertLessEqual(set(EFFICIENCIES) - {"first_attention"}, _texts())

    def test_an_unknown_name_is_an_error_where_it_is_read(self) -> None:
        device = _device()
        with self.assertRaises(AssertionError):
            device.coefficient("dispatch", 0.0)
        with self.assertRaises(AssertionError):
            device.efficiency("matmull")

    def test_kinds_of_collectives(self) -> None:
        self.assertEqual(set(KINDS), set(COLLECTIVES))
        with self.assertRaisesRegex(ValueError, "did you mean send"):
            Link(latency_s=0.0,
                 bandwidth_bytes_per_s=1.0,
                 factors=(("sent", 2.0), ))

    def test_what_a_profile_writes_has_a_name(self) -> None:
        tree = ast.parse(Path(fit_device.__file__).read_text("utf-8"))
        written = {
            key.value
            for node in ast.walk(tree) if isinstance(node, ast.Dict)
            for key in node.keys if isinstance(key, ast.Constant)
        }
        self.assertLess({"allocator_ratio", "message_s"}, written)
        self.assertLessEqual(written | set(fit_device._COEFFICIENTS),
                             set(COEFFICIENTS))

    def test_profiles_are_read(self) -> None:
        names = (*_TOLD, "view_s", "gelu_backward_s_per_byte")
        device = _device(*(Coefficient(name=n, value=1.0, source="")
                           for n in names))
        cluster = ClusterSpec(name="local",
                              device=device,
                              tiers=(Tier(name="node",
                                          size=2,
                                          link=Link(latency_s=0.0,
                                                    bandwidth_bytes_per_s=1.0,
                                                    factors=tuple(
                                                        (k, 2.0)
                                                        for k in KINDS))), ))
        self.assertEqual(from_yaml(to_yaml(cluster)), cluster)

    def test_devices_refuse_others(self) -> None:
        with self.assertRaisesRegex(
                ValueError, "device chip: coefficients has unknown name "
                "'queue'; did you mean queue_order"):
            _device(Coefficient(name="queue", value=1.0, source=""))


def _device(*coefficients: Coefficient) -> DeviceKind:
    return DeviceKind(name="chip",
                      memory_bytes=1,
                      memory_bandwidth_bytes_per_s=1.0,
                      peak_flops_per_s=(("float32", 1.0), ),
                      launch_overhead_s=0.0,
                      coefficients=coefficients)


if __name__ == "__main__":
    unittest.main()
