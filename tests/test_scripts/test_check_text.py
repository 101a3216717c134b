from __future__ import annotations

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

from scripts.check_text import clean, main


class TestClean(unittest.TestCase):

    def test_line_ends_and_blanks(self) -> None:
        self.assertEqual(clean(b" a \r\nb\t\rc\n\n\n"), b" a\nb\nc\n")

    def test_an_empty_file_stays_empty(self) -> None:
        self.assertEqual(clean(b""), b"")
        self.assertEqual(clean(b"\n"), b"")


class TestMain(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "a.txt"
        self.path.write_bytes(b"a \n")

    def run_main(self, *arguments: str) -> int:
        with contextlib.redirect_stdout(io.StringIO()):
            return main(arguments)

    def test_checking_changes_nothing(self) -> None:
        self.assertEqual(self.run_main(str(self.path)), 1)
        self.assertEqual(self.path.read_bytes(), b"a \n")

    def test_fixing_reports_once(self) -> None:
        self.assertEqual(self.run_main("--fix", str(self.path)), 1)
        self.assertEqual(self.run_main("--fix", str(self.path)), 0)
        self.assertEqual(self.path.read_bytes(), b"a\n")

    def test_binary_files_are_left_alone(self) -> None:
        picture = self.path.rename(self.path.with_suffix(".png"))
        self.assertEqual(self.run_main("--fix", str(picture)), 0)


if __name__ == "__main__":
    unittest.main()
