from __future__ import annotations

import dataclasses
import unittest

import numpy as np

from scripts.calibrate_cost_model import (FAMILIES, PARAMETERS, fit_family,
                                          times_with)
from scripts.published.batch import Batch
from scripts.published.case import Case
from scripts.published.errors import held_out
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


class TestFit(unittest.TestCase):

    def test_made_up_devices_are_found_again(self) -> None:
        batch = Batch.of(_cases())
        truth = {p.name: p.usual for p in PARAMETERS}
        truth |= {"matmul": 0.62, "memory": 0.7, "dispatch_s": 3e-5}
        times = times_with(batch, truth)
        known = dataclasses.replace(
            batch,
            cases=tuple(
                dataclasses.replace(c, measured_s=float(t))
                for c, t in zip(batch.cases, times, strict=True)))
        found = fit_family(known)
        self.assertAlmostEqual(found["matmul"] / 0.62, 1, delta=0.03)
        errors = np.abs(times_with(known, found) / times - 1)
        kept_out = [held_out(c.source, c.id) for c in known.cases]
        self.assertGreater(sum(kept_out), 1)
        self.assertLess(errors[kept_out].max(), 0.03)

    def test_a_preset_is_in_one_family(self) -> None:
        presets = [p for family in FAMILIES.values() for p in family]
        self.assertEqual(len(presets), len(set(presets)))


if __name__ == "__main__":
    unittest.main()
