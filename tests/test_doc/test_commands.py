"""What the commands of pages and examples name is there."""

from __future__ import annotations

import re
import shlex
import unittest

from tests.test_doc.shown import ELSEWHERE, commands
from tests.tree import ROOT


class TestNames(unittest.TestCase):

    def test_what_they_name_is_there(self) -> None:
        found = commands()
        self.assertIn("README.md", found)
        for page, lines in found.items():
            for line in lines:
                with self.subTest(f"{page}: {line}"):
                    self.check_names(shlex.split(line))

    def check_names(self, words: list[str]) -> None:
        ours = re.compile(r"(scripts|examples|tests|benchmarks)/.*\.\w+$")
        for word in filter(ours.match, words):
            self.assertTrue((ROOT / word).exists(), word)
        module = words[words.index("-m") + 1] if "-m" in words else ""
        if module.startswith(("planner", "scaletorch", "scripts", "bench")):
            path = ROOT / module.replace(".", "/")
            self.assertTrue(
                path.with_suffix(".py").exists()
                or (path / "__main__.py").exists(), module)

    def test_reasons_are_of_commands(self) -> None:
        lines = [line for found in commands().values() for line in found]
        for part in ELSEWHERE:
            self.assertTrue(any(part in line for line in lines), part)


if __name__ == "__main__":
    unittest.main()
