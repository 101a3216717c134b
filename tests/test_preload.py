from __future__ import annotations

import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import tests
from tests.preload import load


class TestLoad(unittest.TestCase):

    def test_what_fails_or_warns_is_left_to_the_tests(self) -> None:
        sources = {
            "quiet": "",
            "noisy": "import warnings; warnings.warn('of ours')",
            "broken": "1 / 0",
            "late": ""
        }
        with tempfile.TemporaryDirectory() as folder, \
                mock.patch.object(tests, "__path__", [folder]), \
                mock.patch.dict(sys.modules):
            for name, source in sources.items():
                Path(folder, f"{name}.py").write_text(source)
            load(f"tests.{name}" for name in sources)
            self.assertEqual(
                [name for name in sources if f"tests.{name}" in sys.modules],
                ["quiet", "late"])


if __name__ == "__main__":
    unittest.main()
