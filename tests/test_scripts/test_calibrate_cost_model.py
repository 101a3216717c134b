from __future__ import annotations

import dataclasses
import unittest
from importlib import resources

import numpy as np

from planner.cluster.text import from_yaml
from scripts.calibrate_cost_model import FAMILIES, cases_of, unseen_times
from scripts.published.batch import Batch
from scripts.published.case import Case
from scripts.published.errors import held_out
from scripts.published.fit import fit, of_preset, parameters_of, times_with
from scripts.published.host import fit_host, host_cases
from scripts.published.presets import with_numbers
from scripts.published.read import read_case
from tests.test_scripts.rows import row


def _cases() -> list[Case]:
    """Runs that differ in width, batch and tensor parallelism."""
    found = []
    for hidden in (1024, 2048, 4096):
        for micro in (1, 4, 16):
            for tp in (1, 2, 8):
                model = {
                    "name": "GPT",
                    "layers": 24,
                    "hidden": hidden,
                    "heads": hidden // 128,
                    "seq": 1024
                }
                found.append(
                    read_case(
                        row(id=f"{hidden}-{micro}-{tp}",
                            model=model,
                            global_batch=16 * 8 // tp,
                            micro_batch=micro,
                            parallel={
                                "tp": tp,
                                "pp": 1,
                                "dp": 8 // tp,
                                "sharding": "ddp"
                            },
                            measured={"iteration_time_s": 1e3})))
    return found


def _made_up(changes: dict[str, float]) -> tuple[Batch, np.ndarray]:
    """Runs with the times of devices with these numbers, and the times."""
    batch = Batch.of(_cases())
    truth = {p.name: p.usual for p in parameters_of("A100")} | changes
    times = times_with(batch, truth)
    cases = tuple(
        dataclasses.replace(c, measured_s=float(t))
        for c, t in zip(batch.cases, times, strict=True))
    return dataclasses.replace(batch, cases=cases), times


class TestFit(unittest.TestCase):

    def test_made_up_devices_are_found_again(self) -> None:
        changes = {"matmul": 0.62, "memory": 0.7, "dispatch_s": 3e-5}
        known, times = _made_up(changes)
        kept_out = np.array([held_out(c.source, c.id) for c in known.cases])
        wide = [
            dataclasses.replace(p,
                                spread=p.spread *
                                (30 if p.name in changes else 1))
            for p in parameters_of("A100")
        ]
        found = fit(known, ~kept_out, wide)
        self.assertAlmostEqual(found["matmul"] / 0.62, 1, delta=0.03)
        errors = np.abs(times_with(known, found) / times - 1)
        self.assertGreater(sum(kept_out), 1)
        self.assertLess(errors[kept_out].max(), 0.03)

    def test_usual_numbers_hold_where_few_rows_speak_against_them(
            self) -> None:
        known, _ = _made_up({"matmul": 0.62})
        one = np.arange(len(known.cases)) == 0
        found = fit(known, one, parameters_of("A100"))
        usual = {p.name: p.usual for p in parameters_of("A100")}
        for name, value in found.items():
            self.assertAlmostEqual(value / usual[name], 1, delta=0.05)

    def test_one_source_is_not_predicted_from_itself(self) -> None:
        known, times = _made_up({"matmul": 0.7})
        self.assertTrue(np.isnan(unseen_times(known, "A100")).all())
        other = [
            dataclasses.replace(c, source="other") for c in known.cases[::2]
        ]
        both = dataclasses.replace(known,
                                   cases=tuple(
                                       other[i // 2] if i % 2 == 0 else c
                                       for i, c in enumerate(known.cases)))
        errors = unseen_times(both, "A100") / times - 1
        self.assertLess(np.abs(errors).max(), 0.2)

    def test_numbers_are_written_into_a_preset(self) -> None:
        text = resources.files("planner.cluster").joinpath(
            "presets", "a100-80g.yaml").read_text()
        values = {
            p.name: 0.5 if p.most <= 1 else p.usual
            for p in parameters_of("A100")
        }
        new = with_numbers(text, values, "made up")
        device = from_yaml(new).device
        self.assertEqual(new.splitlines()[0], text.splitlines()[0])
        self.assertEqual(device.efficiency("attention"), 0.5)
        self.assertEqual(device.coefficient("exposed", 0.0), 0.5)
        self.assertEqual(device.source_of("launch_overhead_s"), "made up")
        self.assertEqual(
            device.coefficient("wave_elements", 0.0),
            from_yaml(text).device.coefficient("wave_elements", 1.0))

    def test_a_preset_has_its_own_clock(self) -> None:
        values = {p.name: p.usual for p in parameters_of("Blackwell")}
        values |= {"clock b200-sxm": 0.9, "clock gb300-nvl72": 1.1}
        slow, quick = (of_preset(values, n)
                       for n in ("b200-sxm", "gb300-nvl72"))
        self.assertAlmostEqual(slow["matmul8"] / quick["matmul8"],
                               0.9 / 1.1,
                               places=2)
        self.assertEqual(slow["memory"], quick["memory"])
        self.assertFalse([n for n in slow if "clock" in n])

    def test_rows_that_say_too_little_are_not_fitted(self) -> None:
        long = {**row()["model"], "seq": 65536}
        none = {"micro_batch": None}
        for changes, fitted in (({}, True), (none, False), ({
                **none, "model":
                long
        }, True), ({
                "notes": "do not use for error statistics"
        }, False)):
            self.assertEqual(
                len(
                    cases_of([
                        row(measured={"iteration_time_s": 1000.0}, **changes)
                    ])), int(fitted))

    def test_a_preset_is_in_one_family(self) -> None:
        presets = [p for family in FAMILIES.values() for p in family]
        self.assertEqual(len(presets), len(set(presets)))


class TestHost(unittest.TestCase):

    def test_what_was_made_up_is_found_again(self) -> None:
        model = {"family": "gpt", "hidden": 512, "heads": 8, "seq": 1024}
        tests = row(source={"name": "functional tests"})
        rows = [{
            **tests, "id": str(layers),
            "model": {
                **model, "layers": layers
            }
        } for layers in (4, 8, 12, 24, 48)]
        cases = host_cases([*rows, row(id="no test")])
        self.assertEqual(len(cases),
                         sum(not held_out(c.source, c.id) for c in cases))
        self.assertGreaterEqual(len(cases), 3)
        batch = Batch.of(cases)
        plans = dataclasses.replace(batch.plans,
                                    host_factor=1.5,
                                    step_host_s=0.03)
        times_s = dataclasses.replace(batch, plans=plans).times().time_s
        found = fit_host([
            dataclasses.replace(c, measured_s=float(t))
            for c, t in zip(cases, times_s, strict=True)
        ])
        self.assertAlmostEqual(found.host_factor, 1.5, places=3)
        self.assertAlmostEqual(found.step_host_s, 0.03, places=4)
        self.assertEqual(found.rows, len(cases))


if __name__ == "__main__":
    unittest.main()
