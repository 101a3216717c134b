"""Rows from files, and files that hold none."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import yaml

from scripts.published.rows import read_rows
from tests.test_scripts.rows import row


class TestRows(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def test_files_follow_each_other(self) -> None:
        paths = [
            self.file(f"{name}.yaml",
                      yaml.safe_dump([row(id=f"{name}{i}") for i in range(3)]))
            for name in "ab"
        ]
        self.assertEqual([r["id"] for r in read_rows(paths)],
                         ["a0", "a1", "a2", "b0", "b1", "b2"])
        self.assertEqual([r["id"] for r in read_rows(paths, every=2)],
                         ["a0", "a2", "b1"])
        self.assertEqual([r["id"] for r in read_rows(paths, limit=1)], ["a0"])
        self.assertEqual(read_rows(paths, "nobody*"), [])

    def test_what_is_no_list_is_named(self) -> None:
        for text, reason in (("a: 1", "a list of rows is expected, not dict"),
                             ("[1", "cannot be read as YAML")):
            path = self.file("rows.yaml", text)
            with self.subTest(text), \
                    self.assertRaisesRegex(SystemExit, f"{path}: {reason}"):
                read_rows([path])


if __name__ == "__main__":
    unittest.main()
