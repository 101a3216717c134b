"""What the pages show runs."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path

from tests.launch import launch
from tests.markers import nightly
from tests.test_doc.pages import blocks, pages
from tests.tree import ROOT

QUICK = ("python -m planner.simulate", "python -m scaletorch.models",
         "python -m scaletorch.train --help-config",
         "python -m scripts.write_reference")
"""Commands of pages that take a second or two and write nothing."""


def run_text(text: str) -> str:
    """What a program prints."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(
    ), contextlib.redirect_stdout(printed):
        warnings.simplefilter("ignore")
        path = Path(folder, "snippet.py")
        path.write_text(text, encoding="utf-8")
        runpy.run_path(str(path), run_name="__main__")
    return printed.getvalue()


def run_on_rank(rank: int, text: str) -> str:
    del rank
    return run_text(text)


def commands() -> dict[str, list[str]]:
    """Lines of all bash blocks, by page."""
    found = {}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ")
        found[page.name] = [
            line.partition(" # ")[0].strip() for line in lines.splitlines()
            if line.strip() and not line.startswith("#")
        ]
    return found


class TestPython(unittest.TestCase):

    def test_marked_blocks(self) -> None:
        count = 0
        for page in pages():
            for text in blocks(page.read_text(encoding="utf-8"),
                               "python",
                               marked=True):
                with self.subTest(f"{page.name}: {text[:60]}"):
                    self.check_runs(text)
                    count += 1
        self.assertGreaterEqual(count, 5)

    def check_runs(self, text: str) -> None:
        # In a process of its own: what it registers must not stay.
        process = multiprocessing.get_context("forkserver").Process(
            target=run_text, args=(text, ))
        process.start()
        process.join()
        self.assertEqual(process.exitcode, 0)

    def test_every_block_is_python(self) -> None:
        for page in pages():
            for text in blocks(page.read_text(encoding="utf-8"), "python"):
                with self.subTest(f"{page.name}: {text[:60]}"):
                    compile(text, page.name, "exec")

    def test_first_programs(self) -> None:
        for name in ("README.md", "doc/getting_started.md"):
            page = (ROOT / name).read_text(encoding="utf-8")
            program, = (text for text in blocks(page, "python")
                        if "dist.init()" in text)
            with self.subTest(name):
                printed = launch(4, run_on_rank, program, timeout_s=200)
                self.assertIn("mesh:", printed[0])


class TestCommands(unittest.TestCase):

    def test_what_they_name_is_there(self) -> None:
        for page, lines in commands().items():
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

    @nightly
    def test_quick_ones_run(self) -> None:
        for page, lines in commands().items():
            for line in lines:
                if line.startswith(QUICK):
                    with self.subTest(f"{page}: {line}"):
                        words = [sys.executable, *shlex.split(line)[1:]]
                        done = subprocess.run(words,
                                              cwd=ROOT,
                                              capture_output=True,
                                              text=True,
                                              timeout=200,
                                              check=False)
                        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
