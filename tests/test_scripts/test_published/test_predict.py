from __future__ import annotations

import copy
import math
import unittest
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

from scripts.published.picture import picture
from scripts.published.predict import Prediction, predict
from tests.test_scripts.rows import row

_VALUES = (None, "", 0, -1, "8", "4k", 3.5, 1e30, float("nan"), [], {}, [1, 2],
           "many", True, "1,024", 10**12, math.inf)
_MIXTURE = {
    "name": "new mixture",
    "layers": 8,
    "hidden": 1024,
    "heads": 8,
    "ffn": 4096,
    "vocab": 32000,
    "seq": 2048,
    "gated_mlp": True,
    "experts": 8,
    "top_k": 2
}


def _places(table: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        yield (key, )
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in _places(value))


def _with(plain: dict[str, Any], place: tuple[str, ...],
          value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(plain)
    table = changed
    for key in place[:-1]:
        table = table[key]
    if value == "dropped":
        del table[place[-1]]
    else:
        table[place[-1]] = value
    return changed


class TestPredict(unittest.TestCase):

    def test_rows_that_their_source_doubts(self) -> None:
        for notes, doubted in (("do not use for error statistics", True), (
                "source flags a known cuDNN performance regression", True),
                               ("measured on one iteration", False)):
            found, = predict([row(notes=notes)])
            self.assertEqual(found.doubted, doubted)
            self.assertGreater(found.predicted_s or 0.0, 0.0)

    def test_any_field_may_be_missing_or_wrong(self) -> None:
        plain = row(source={"name": "a"})
        plain["parallel"]["zero1_group"] = 2
        rows: list[Any] = [
            _with(plain, place, value) for place in _places(plain)
            for value in ("dropped", *_VALUES)
        ]
        rows += [None, 5, "text", [], {}]
        found = predict(rows)
        self.assertEqual(len(found), len(rows))
        for raw, p in zip(rows, found, strict=True):
            with self.subTest(raw=raw):
                self._check(p)

    def _check(self, p: Prediction) -> None:
        self.assertNotIn("malformed", p.reason or "")
        self.assertNotEqual(p.reason is None, p.predicted_s is None)
        for value in (p.predicted_s, p.predicted_peak_bytes):
            self.assertTrue(value is None or 0 < value < math.inf)

    def test_models_and_devices_that_no_table_names(self) -> None:
        devices = ("H200 SXM", "h100-80gb", "A100 SXM4 40GB", "B200", "TPU-v4",
                   "MI300X", "V100-32GB", "RTX-4090", "H100 PCIe")
        rows = [
            row(id=gpu,
                model=_MIXTURE,
                dtype=dtype,
                hardware={
                    "gpu": gpu,
                    "count": 16
                },
                parallel={
                    "tp": 2,
                    "pp": 2,
                    "cp": 2,
                    "ep": 2,
                    "vpp": 2
                }) for gpu in devices for dtype in ("bf16", "fp8")
        ]
        for p in predict(rows):
            with self.subTest(p.id):
                self.assertIsNone(p.reason)
                self.assertGreater(p.parts_s["expert_s"], 0)
                self.assertGreater(p.parts_s["pipeline_s"], 0)

    def test_one_device_needs_no_plan(self) -> None:
        one, several = predict([
            row(hardware={
                "gpu": "A100",
                "count": n
            }, parallel={}) for n in (1, 8)
        ])
        self.assertIsNone(one.reason)
        self.assertEqual(several.reason, "the parallel sizes are not stated")

    def test_parts_make_up_the_time(self) -> None:
        p = predict([row()])[0]
        self.assertAlmostEqual(sum(p.parts_s.values()), p.predicted_s or 0)
        self.assertAlmostEqual(p.as_json()["error"],
                               (p.predicted_s or 0) / 1.5 - 1)

    def test_a_picture_has_a_point_for_each_row(self) -> None:
        rows = [row(id=str(n), source={"name": f"<{n}>"}) for n in range(3)]
        doubted = row(notes="do not use for error statistics")
        drawn = ElementTree.fromstring(
            picture(predict([*rows, doubted, row(parallel={})])))
        points = [
            e for e in drawn
            if e.tag.endswith("circle") and e.get("fill-opacity")
        ]
        texts = [e.text for e in drawn if e.tag.endswith("text")]
        self.assertEqual(len(points), 3)
        self.assertIn("<2>", texts)
        self.assertTrue(ElementTree.fromstring(picture([])) is not None)


if __name__ == "__main__":
    unittest.main()
