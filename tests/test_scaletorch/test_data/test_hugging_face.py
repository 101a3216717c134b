"""Data sets of another package, through a stand-in for it."""

from __future__ import annotations

import types
import unittest
from typing import Any
from unittest import mock

from scaletorch.data import build

ROWS = [{"ids": [i, i + 1], "label": i % 2, "body": f"text {i}"}
        for i in range(6)]  # yapf: disable


def load_dataset(path: str, name: str | None, *, split: str) -> Any:
    """As `datasets` has it."""
    assert (path, name, split) == ("made/up", "small", "test")
    return ROWS


CONFIG = {
    "kind": "hugging_face",
    "path": "made/up",
    "name": "small",
    "split": "test",
    "batch_size": 2,
    "shuffle": False
}


class TestHuggingFace(unittest.TestCase):

    def setUp(self) -> None:
        module = types.SimpleNamespace(load_dataset=load_dataset)
        patch = mock.patch.dict("sys.modules", {"datasets": module})
        patch.start()
        self.addCleanup(patch.stop)

    def test_columns(self) -> None:
        loader = build({
            **CONFIG, "columns": {
                "ids": "tokens",
                "label": "labels"
            }
        })
        batch = list(loader)[1]
        self.assertEqual(batch["tokens"].tolist(), [[2, 3], [3, 4]])
        self.assertEqual(batch["labels"].tolist(), [0, 1])

    def test_text(self) -> None:
        loader = build({**CONFIG, "text": "body", "sequence_length": 7})
        batch = next(iter(loader))
        self.assertEqual(batch["tokens"][0].tolist(), [*b"text 0", 256])

    def check(self, message: str, /, **options: Any) -> None:
        with self.assertRaisesRegex((ValueError, ImportError), message):
            next(iter(build({**CONFIG, **options})))

    def test_errors(self) -> None:
        self.check("either columns .* or text")
        self.check("needs the option 'sequence_length'", text="body")
        self.check("no text in a column 'label'; it has ids, label, body",
                   text="label",
                   sequence_length=2)
        self.check("no column 'x'; it has ids", columns={"x": "x"})
        self.check("row 0: column 'body' is a str, which is no tensor",
                   columns={"body": "x"})
        with mock.patch.dict("sys.modules", {"datasets": None}):
            self.check("made/up needs the package datasets: pip install",
                       columns={"ids": "x"})


if __name__ == "__main__":
    unittest.main()
