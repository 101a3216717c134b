from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
import unittest
from pathlib import Path

import yaml

from scripts.published.errors import summarise
from scripts.validate_cost_model import main, predict
from tests.test_scripts.rows import row
from tests.tree import ROOT

_MEASUREMENTS = ROOT.parent / "shared" / "measurements"


def _run(*arguments: str, rows: list[dict[str, object]]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.yaml"
        path.write_text(yaml.safe_dump(rows), encoding="utf-8")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            status = main([str(path), *arguments])
    assert status == 0
    return out.getvalue()


class TestCommand(unittest.TestCase):

    def test_every_row_is_in_the_output(self) -> None:
        rows = [row(), row(id="b", model={"name": "secret"}), row(id="c")]
        text = _run(rows=rows)
        self.assertRegex(text, r"made-up-0 +\d+\.\d+ s of +1\.5000 s")
        self.assertIn("secret: layers and hidden size are not stated", text)
        self.assertIn("1 of 3 rows cannot be expressed", text)
        self.assertIn("made up / a100-80g", text)

    def test_json(self) -> None:
        found = json.loads(
            _run("--json",
                 rows=[row(measured={"peak_mem_gb": 20}),
                       row(parallel={})]))
        self.assertEqual([sorted(entry) for entry in found], [[
            "error", "id", "measured_peak_bytes", "measured_s", "parts_bytes",
            "parts_s", "peak_error", "predicted_peak_bytes", "predicted_s",
            "reason", "source"
        ]] * 2)
        self.assertAlmostEqual(sum(found[0]["parts_s"].values()),
                               found[0]["predicted_s"])
        self.assertLess(sum(found[0]["parts_bytes"].values()),
                        found[0]["predicted_peak_bytes"])
        self.assertAlmostEqual(found[0]["peak_error"],
                               found[0]["predicted_peak_bytes"] / 20e9 - 1)
        self.assertEqual(found[0]["measured_peak_bytes"], 20e9)
        self.assertGreater(found[0]["predicted_s"], 0)
        self.assertIsNone(found[0]["reason"])
        self.assertIn("not stated", found[1]["reason"])

    def test_what_was_not_measured_is_predicted(self) -> None:
        rows = [row(measured=None), row(measured={"oom": True})]
        text = _run(rows=rows)
        self.assertEqual(len(re.findall(r"\d s, not measured", text)), 2)
        self.assertEqual(len(re.findall(r"GiB, not measured", text)), 2)
        self.assertIn("0 of 2 rows cannot be expressed", text)
        for found in json.loads(_run("--json", rows=rows)):
            self.assertGreater(found["predicted_s"], 0)
            self.assertGreater(found["predicted_peak_bytes"], 0)
            self.assertIsNone(found["measured_s"])
            self.assertIsNone(found["reason"])

    def test_runs_that_state_the_same(self) -> None:
        rows = [
            row(id=name, measured={"iteration_time_ms": time_ms})
            for name, time_ms in (("a", 900.0), ("b", 1000.0), ("c", 1100.0))
        ]
        other = row(id="d", micro_batch=2)
        text = _run("--brief", rows=[*rows, other])
        self.assertRegex(text, r"    3 +6\.7% +10\.0%   made up / a100-80g")
        self.assertNotIn("state the same", _run(rows=[rows[0], other]))

    def test_limit_and_source(self) -> None:
        rows = [row(), row(id="b"), row(id="c", source={"name": "other"})]
        self.assertEqual(
            len(json.loads(_run("--json", "--limit", "2", rows=rows))), 2)
        found = json.loads(_run("--json", "--source", "oth*", rows=rows))
        self.assertEqual([entry["id"] for entry in found], ["c"])

    def test_numbers_of_rows_are_positive(self) -> None:
        for option in ("--limit", "--every"):
            err = io.StringIO()
            with contextlib.redirect_stderr(err), \
                    self.assertRaises(SystemExit):
                _run(option, "0", rows=[row()])
            self.assertIn(f"{option} must be at least 1, got 0",
                          err.getvalue())

    def test_files_that_are_no_rows_are_named(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in (("mapping.yaml", "a: 1"), ("empty.yaml", ""),
                               ("broken.yaml", "- {a: [1"),
                               ("day.yaml",
                                "- {id: 2024-13-45}"), ("absent.yaml", None)):
                path = Path(folder) / name
                if text is not None:
                    path.write_text(text, encoding="utf-8")
                with self.assertRaisesRegex(SystemExit, name):
                    main([str(path)])

    def test_malformed_rows_are_reasons_and_no_errors(self) -> None:
        plain = row()
        wrong: list[dict[str, object]] = [
            {
                "id": "empty"
            },
            row(model={
                "name": "GPT",
                "layers": "many"
            }),
            row(model=None),
            row(parallel=None),
            row(hardware=None),
            row(parallel={
                **plain["parallel"], "dp": "two"
            }),
            row(parallel={
                **plain["parallel"], "sharding": "new"
            },
                recompute="some"),
            row(model={
                **plain["model"], "heads": -16
            }),
        ]
        found = predict([*wrong, plain])
        self.assertTrue(all(p.reason for p in found[:-1]))
        self.assertIsNone(found[-1].reason)


class TestSummary(unittest.TestCase):

    def test_errors_and_ranks(self) -> None:
        found = summarise([1.1, 1.8, 3.0], [1.0, 2.0, 3.0])
        self.assertAlmostEqual(found.mean, 0.2 / 3)
        self.assertAlmostEqual(found.median, 0.1)
        self.assertAlmostEqual(found.rank_correlation, 1.0)


@unittest.skipUnless(_MEASUREMENTS.is_dir(),
                     "no published measurements next to this checkout")
class TestPublished(unittest.TestCase):

    def test_dense_runs_are_predicted(self) -> None:
        path = _MEASUREMENTS / "training_runs.yaml"
        rows = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        found = [
            p for p in predict(rows)
            if p.case and p.case.stated and p.case.model.experts == 0
            and p.case.preset.startswith(("a100", "h100")) and p.predicted_s
            and p.measured_s and not p.doubted
        ]
        self.assertGreater(len(found), 400)
        summary = summarise([p.predicted_s or 0.0 for p in found],
                            [p.measured_s or 0.0 for p in found])
        self.assertLess(summary.mean, 0.09)
        self.assertGreater(summary.rank_correlation, 0.98)

    def test_memory_of_small_runs(self) -> None:
        path = _MEASUREMENTS / "memory_megatron_ci.yaml"
        rows = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        found = [
            p for p in predict(rows)
            if p.predicted_peak_bytes and p.measured_peak_bytes
        ]
        summary = summarise([p.predicted_peak_bytes or 0.0 for p in found],
                            [p.measured_peak_bytes or 0.0 for p in found])
        self.assertLess(summary.median, 0.07)
        self.assertGreater(summary.rank_correlation, 0.9)


if __name__ == "__main__":
    unittest.main()
