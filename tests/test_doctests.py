"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import unittest

from tests.tree import PACKAGES, ROOT, python_files


class TestDoctests(unittest.TestCase):

    def test_examples(self) -> None:
        for path in python_files(*PACKAGES, "scripts"):
            if ">>> " not in path.read_text(encoding="utf-8"):
                continue
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            with self.subTest(name):
                result = doctest.testmod(
                    importlib.import_module(name.removesuffix(".__init__")),
                    optionflags=doctest.NORMALIZE_WHITESPACE)
                self.assertGreater(result.attempted, 0)
                self.assertEqual(result.failed, 0)


if __name__ == "__main__":
    unittest.main()
