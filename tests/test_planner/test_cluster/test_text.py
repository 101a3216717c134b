from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import torch

from planner.cluster import from_yaml, load_cluster, preset_names, to_yaml

_GOOD = """
name: toy
device:
  name: chip
  memory_bytes: 80e9
  memory_bandwidth_bytes_per_s: 1.0e+12
  peak_flops_per_s: {float32: 1.0e+12}
  launch_overhead_s: 0
tiers:
- name: node
  size: 8
  link: {latency_s: 1.0e-6, bandwidth_bytes_per_s: 1.0e+11}
"""


class TestYaml(unittest.TestCase):

    def _refused(self, old: str, new: str, message: str) -> None:
        self.assertIn(old, _GOOD)
        with self.assertRaisesRegex(ValueError, message):
            from_yaml(_GOOD.replace(old, new))

    def test_presets_round_trip(self) -> None:
        for name in preset_names():
            cluster = load_cluster(name)
            with self.subTest(name):
                self.assertEqual(from_yaml(to_yaml(cluster)), cluster)

    def test_price_round_trips(self) -> None:
        cluster = from_yaml(f"{_GOOD}price_per_device_hour: 2.5\n")
        self.assertEqual(cluster.price_per_device_hour, 2.5)
        self.assertEqual(from_yaml(to_yaml(cluster)), cluster)
        for wrong in ("0", "cheap", ".inf"):
            with self.assertRaisesRegex(ValueError, "price_per_device_hour"):
                from_yaml(f"{_GOOD}price_per_device_hour: {wrong}\n")

    def test_factors_round_trip(self) -> None:
        text = _GOOD.replace("1.0e+11}", "1.0e+11, factors: {send: 2}}")
        cluster = from_yaml(text)
        self.assertEqual(cluster.tiers[0].link.factor("send"), 2.0)
        self.assertEqual(cluster.tiers[0].link.factor("broadcast"), 1.0)
        self.assertEqual(from_yaml(to_yaml(cluster)), cluster)
        with self.assertRaisesRegex(ValueError, "factor of send"):
            from_yaml(text.replace("send: 2", "send: 0"))

    def test_mixed_clusters_round_trip(self) -> None:
        text = _GOOD.replace("size: 8", "size: 2") + """- name: fabric
  size: 3
  link: {latency_s: 1.0e-6, bandwidth_bytes_per_s: 1.0e+10}
others:
- num_nodes: 1
  device:
    name: old
    memory_bytes: 40e9
    memory_bandwidth_bytes_per_s: 0.5e+12
    peak_flops_per_s: {float32: 0.5e+12}
    launch_overhead_s: 1.0e-6
    coefficients: {dispatch_s: {value: 1.0e-6, source: measured}}
    sources: {memory_bytes: data sheet}
"""
        cluster = from_yaml(text)
        self.assertEqual(from_yaml(to_yaml(cluster)), cluster)
        self.assertEqual([cluster.device_of(i).name for i in range(6)],
                         ["chip"] * 4 + ["old"] * 2)
        self.assertEqual(cluster.others[0].device.source_of("memory_bytes"),
                         "data sheet")
        self._refused_text(text.replace("num_nodes: 1", "num_nodes: 4"),
                           "has 3 nodes, but others lists 4")
        self._refused_text(text.replace("name: old", "name: chip"),
                           "other numbers are called 'chip'; give each")

    def _refused_text(self, text: str, message: str) -> None:
        with self.assertRaisesRegex(ValueError, message):
            from_yaml(text)

    def test_numbers_may_be_written_without_a_dot(self) -> None:
        self.assertEqual(from_yaml(_GOOD).device.memory_bytes, 80_000_000_000)

    def test_unknown_key_names_the_nearest(self) -> None:
        self._refused(
            "latency_s", "latencys",
            r"cluster YAML: tiers\[0\].link: unknown key 'latencys'; "
            "did you mean latency_s")

    def _refused_device(self, field: str, message: str) -> None:
        self._refused("  launch", f"  {field}\n  launch", message)

    def test_names_of_efficiencies(self) -> None:
        self._refused_device(
            "efficiencies: {matmull: {value: 0.7}}",
            "cluster YAML: device chip: efficiencies has unknown name "
            r"'matmull'; did you mean matmul or .* \(known names: attention, "
            r"convolution, .*unaligned\); attention, .* also of one dtype, as "
            "in attention_bfloat16")
        self._refused_device("efficiencies: {attention_bf16: {value: 0.7}}",
                             "unknown name 'attention_bf16'")
        self._refused_device("efficiencies: {matmul8_bfloat16: {value: 0.7}}",
                             "unknown name 'matmul8_bfloat16'")
        text = _GOOD.replace(
            "  launch",
            "  efficiencies: {attention_bfloat16: {value: 0.7}}\n  launch")
        self.assertEqual(
            from_yaml(text).device.efficiency("attention", torch.bfloat16),
            0.7)

    def test_names_of_coefficients(self) -> None:
        self._refused_device(
            "coefficients: {dispatch: {value: 1.0e-6}}",
            "cluster YAML: device chip: coefficients has unknown name "
            r"'dispatch'; did you mean dispatch_s \(known names: "
            "adamw_foreach_parameter_s, .*wave_elements")
        self._refused_device(
            "coefficients: {zzz: {value: 1}}",
            "'zzz'; known names: adamw_foreach_parameter_s, .*wave_elements$")

    def test_a_number_in_the_wrong_place(self) -> None:
        self._refused_device("coefficients: {matmul_float32: {value: 0.7}}",
                             "'matmul_float32'; it is one of efficiencies")
        self._refused_device("efficiencies: {exposed: {value: 0.7}}",
                             "'exposed'; it is one of coefficients")

    def test_names_of_factors_and_sources(self) -> None:
        self._refused(
            "1.0e+11}", "1.0e+11, factors: {all_reduse: 2}}",
            r"tiers\[0\].link.factors: unknown key 'all_reduse'; did you mean "
            "all_reduce")
        self._refused(
            "1.0e+11}", "1.0e+11, sources: {latency: x}}",
            r"tiers\[0\].link.sources: unknown key 'latency'; did you mean "
            "latency_s")
        self._refused_device(
            "sources: {memory: x}",
            "device.sources: unknown key 'memory'; did you mean")

    def test_missing_key(self) -> None:
        self._refused("  memory_bytes: 80e9\n", "",
                      "cluster YAML: device: memory_bytes is missing")

    def test_negative_number(self) -> None:
        self._refused(
            "80e9", "-1", "cluster YAML: device chip: memory_bytes must be a "
            "finite number greater than 0, got -1")

    def test_text_and_truth_values_are_no_numbers(self) -> None:
        self._refused("80e9", "lots",
                      "device.memory_bytes must be a number, got 'lots'")
        self._refused("size: 8", "size: true",
                      r"tiers\[0\].size must be a number, got True")

    def test_sizes_are_whole(self) -> None:
        self._refused("size: 8", "size: 8.5", "size must be whole, got 8.5")

    def test_shares_of_a_peak(self) -> None:
        """In percent they would make a link 82 times as quick."""
        self._refused("latency_s", "efficiency: 82, latency_s",
                      r"tiers\[0\].link.efficiency is a share .* got 82")
        self._refused(
            "  launch", "  efficiencies: {matmul: {value: 72}}\n  launch",
            "device.efficiencies.matmul.value is a share of the peak, got 72")

    def test_dtypes_are_those_of_torch(self) -> None:
        self._refused(
            "{float32:", "{bf16:",
            "device.peak_flops_per_s: 'bf16' is no dtype of torch; did you "
            "mean ")

    def test_only_plain_data_is_read(self) -> None:
        with self.assertRaisesRegex(ValueError, "is no YAML of plain data"):
            from_yaml("!!python/object/apply:os.getcwd []")

    def test_not_a_mapping(self) -> None:
        with self.assertRaisesRegex(ValueError, "must be a mapping"):
            from_yaml("[1, 2]")


class TestLoad(unittest.TestCase):

    def test_spec_is_returned_as_it_is(self) -> None:
        cluster = load_cluster("cpu-gloo")
        self.assertIs(load_cluster(cluster), cluster)

    def test_shorthand_sizes(self) -> None:
        cluster = load_cluster("h100-sxm:4x8")
        self.assertEqual(cluster.num_devices, 32)
        self.assertEqual(cluster.unit_sizes(), (8, 32))
        self.assertEqual(load_cluster("h100-sxm:64").unit_sizes(), (8, 64))
        self.assertEqual(load_cluster("cpu-gloo:4").num_devices, 4)

    def test_wider_nodes_leave_a_domain_as_many_devices(self) -> None:
        for sizes, expected in (("2x72", [72, 1, 2]), ("16x8", [8, 8, 2]),
                                ("36x4", [4, 18, 2])):
            cluster = load_cluster(f"gb200-nvl72:{sizes}")
            self.assertEqual([t.size for t in cluster.tiers], expected)

    def test_nodes_fill_racks_in_whole_parts(self) -> None:
        domain = load_cluster("gb200-nvl72:64x4")
        self.assertEqual([t.size for t in domain.tiers], [4, 16, 4])
        self.assertEqual([t.size for t in load_cluster("gb200-nvl72:8").tiers],
                         [4, 2, 1])

    def test_bad_shorthands(self) -> None:
        with self.assertRaisesRegex(ValueError, "whole numbers joined by x"):
            load_cluster("h100-sxm:8*4")
        with self.assertRaisesRegex(
                ValueError, "3 sizes are given, but "
                "h100-sxm has 2 tiers: fabric x node"):
            load_cluster("h100-sxm:8x4x2")

    def test_unknown_name_lists_the_nearest(self) -> None:
        with self.assertRaisesRegex(
                ValueError, "no cluster is called 'h100-smx'.*did you mean "
                "h100-sxm"):
            load_cluster("h100-smx")
        with self.assertRaisesRegex(ValueError, "known names: a100-40g, a100"):
            load_cluster("zzz:4")

    def test_path(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "toy.yaml"
            path.write_text(_GOOD)
            self.assertEqual(load_cluster(path).name, "toy")
            self.assertEqual(load_cluster(f"{path}:4").num_devices, 4)
            path.write_text(_GOOD.replace("size", "sise"))
            with self.assertRaisesRegex(ValueError, "toy.yaml: tiers"):
                load_cluster(path)


if __name__ == "__main__":
    unittest.main()
