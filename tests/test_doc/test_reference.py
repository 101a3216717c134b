"""Pages that follow from the code are those that the code writes."""

from __future__ import annotations

import ast
import re
import unittest

from scripts.write_reference import PAGES, as_markdown
from tests.tree import PACKAGES, ROOT, python_files


class TestWritten(unittest.TestCase):

    def test_pages(self) -> None:
        for name, made in PAGES.items():
            with self.subTest(name):
                self.assertTrue(
                    (ROOT / name).read_text(encoding="utf-8") == made(),
                    "run python -m scripts.write_reference")

    def test_markdown(self) -> None:
        self.assertEqual(as_markdown("A ``b``.\n\n>>> 1\n1\n"),
                         "A `b`.\n\n```pycon\n>>> 1\n1\n```\n")


def messages() -> list[str]:
    """All texts of the packages, what differs as an ellipsis."""
    found = []
    for path in python_files(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(
                    node.value, str):
                found.append(node.value)
    return found


class TestTroubleshooting(unittest.TestCase):

    def test_texts_are_those_of_the_code(self) -> None:
        page = (ROOT / "doc/troubleshooting.md").read_text(encoding="utf-8")
        texts = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
        self.assertGreater(len(texts), 25)
        known = messages()
        for text in texts:
            with self.subTest(text):
                wanted = re.compile("…".join(
                    re.escape(part)
                    for part in text.split("…")).replace("…", ".*"))
                self.assertTrue(any(wanted.search(m) for m in known))

    def test_errors_of_our_own(self) -> None:
        page = (ROOT / "doc/troubleshooting.md").read_text(encoding="utf-8")
        source = (ROOT / "planner/ir/errors.py").read_text(encoding="utf-8")
        for name in re.findall(r"^class (\w+)", source, re.MULTILINE):
            self.assertIn(f"`{name}`", page)


if __name__ == "__main__":
    unittest.main()
