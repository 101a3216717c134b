"""Tests that end badly, for the tests of run_tests.py; not discovered."""

from __future__ import annotations

import os
import unittest
import warnings

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

    @nightly
    def test_takes_long(self) -> None:
        pass
