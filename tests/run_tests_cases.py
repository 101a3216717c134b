"""Tests that end badly, for the tests of run_tests.py; not discovered."""

from __future__ import annotations

import os
import unittest
import warnings
from pathlib import Path

from tests.markers import nightly


class Cases(unittest.TestCase):

    def test_prints(self) -> None:
        print("not shown when all is well")

    def test_warns(self) -> None:
        warnings.warn("from our own code", stacklevel=1)

    def test_dies(self) -> None:
        os._exit(3)

    def test_hangs(self) -> None:
        os.read(os.pipe()[0], 1)

    def test_waits_for_the_end(self) -> None:
        """Tells who it is, in a file, and goes on."""
        told = Path(os.environ["RUN_TESTS_CASES_FILE"])
        told.with_suffix(".new").write_text(str(os.getpid()))
        told.with_suffix(".new").rename(told)
        self.test_hangs()

    @nightly
    def test_takes_long(self) -> None:
        pass
