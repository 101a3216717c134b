"""What the pages show runs."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import runpy
import tempfile
import unittest
import warnings
from pathlib import Path

from tests.launch import launch
from tests.test_doc.pages import blocks, pages
from tests.tree import ROOT


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


if __name__ == "__main__":
    unittest.main()
