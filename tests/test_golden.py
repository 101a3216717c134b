from __future__ import annotations

import importlib.util
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from tests.golden import check_golden

_CASE = '''\
from unittest import TestCase

from tests.golden import check_golden


class Case(TestCase):

    def runTest(self):
        check_golden(self, "a\\n  b \\\\ \\"\\"\\"", "")
        é = check_golden(self, "same", "same"); check_golden(self, "c", """
            old
            """)
        check_golden(
            self,
            "d",
            "e")
'''


def _run(path: Path) -> unittest.TestResult:
    spec = importlib.util.spec_from_file_location("golden_case", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Case().run()


class TestGolden(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "case.py"
        self.path.write_text(_CASE, encoding="utf-8")
        # Else a file of the same size and second is taken from the cache.
        self.enterContext(mock.patch("sys.dont_write_bytecode", True))

    def test_indentation_does_not_count(self) -> None:
        check_golden(self, "x\n  y\n", """
            x
              y
            """)

    def test_a_difference_fails(self) -> None:
        with mock.patch.dict(os.environ, {"SCALETORCH_ACCEPT": ""}):
            with self.assertRaisesRegex(AssertionError, "- old\n.*new"):
                check_golden(self, "new", "old")
            self.assertEqual(len(_run(self.path).failures), 1)
        self.assertEqual(self.path.read_text(encoding="utf-8"), _CASE)

    def test_accepting_rewrites_only_what_differs(self) -> None:
        with mock.patch.dict(os.environ, {"SCALETORCH_ACCEPT": "1"}):
            self.assertTrue(_run(self.path).wasSuccessful())
        self.assertIn('"same", "same"); check_golden(self, "c", """\n',
                      self.path.read_text(encoding="utf-8"))
        with mock.patch.dict(os.environ, {"SCALETORCH_ACCEPT": ""}):
            self.assertTrue(_run(self.path).wasSuccessful())

    def test_a_variable_cannot_be_rewritten(self) -> None:
        self.path.write_text(_CASE.replace('"e")', "str(1))"),
                             encoding="utf-8")
        with mock.patch.dict(os.environ, {"SCALETORCH_ACCEPT": "1"}):
            (_, error), = _run(self.path).errors
        self.assertRegex(error, "takes the expected text as a string literal")


if __name__ == "__main__":
    unittest.main()
