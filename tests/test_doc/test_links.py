"""Links lead somewhere, and every page can be reached."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import unittest
from importlib.util import find_spec
from pathlib import Path

import yaml

from tests.test_doc.pages import anchors, links, pages
from tests.tree import ROOT


class TestLinks(unittest.TestCase):

    def test_inside(self) -> None:
        for page in pages():
            text = page.read_text(encoding="utf-8")
            for link in links(text):
                if "://" in link:
                    continue
                name, _, anchor = link.partition("#")
                target = (page.parent / name).resolve() if name else page
                with self.subTest(f"{page.name}: {link}"):
                    self.assertTrue(target.is_file())
                    if anchor:
                        self.assertIn(
                            anchor,
                            anchors(target.read_text(encoding="utf-8")))

    def test_a_broken_one_is_seen(self) -> None:
        self.assertEqual(links("[a](b.md#c) and `[d](e)`\n"), ["b.md#c", "e"])
        self.assertEqual(anchors("# A, b\n```\n# c\n```\n"), {"a-b"})

    def test_every_page_is_listed(self) -> None:
        names = {p.name for p in (ROOT / "doc").glob("*.md")}
        overview = (ROOT / "doc/README.md").read_text(encoding="utf-8")
        self.assertEqual(names - set(links(overview)), {"README.md"})
        nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
        listed = set()
        for entry in nav:
            (_, below), = entry.items()
            listed |= {below} if isinstance(below, str) else {
                page
                for item in below
                for page in item.values()
            }
        self.assertEqual(names, listed)


@unittest.skipUnless(find_spec("mkdocs"), "mkdocs is not installed")
class TestSite(unittest.TestCase):

    def test_builds_and_fetches_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([
                sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet",
                "--site-dir", folder
            ],
                                  cwd=ROOT,
                                  capture_output=True,
                                  text=True,
                                  check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            for page in Path(folder).rglob("*.html"):
                text = page.read_text(encoding="utf-8")
                for word in ('src="http', 'src="//', 'stylesheet" href="http'):
                    self.assertNotIn(word, text, page.name)
            shutil.rmtree(folder)
            Path(folder).mkdir()


if __name__ == "__main__":
    unittest.main()
