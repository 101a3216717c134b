"""A sweep's table."""

from __future__ import annotations

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

from scripts.sweep import Run, main, table
from tests.golden import check_golden
from tests.markers import nightly


class TestSweep(unittest.TestCase):

    def test_table(self) -> None:
        runs = [
            Run(plan="fsdp", ranks=2, error="no such plan"),
            Run(plan="ddp",
                ranks=2,
                axes="dp=2 ddp",
                tokens_per_s=1000.0,
                batch_s=0.25,
                expected_s=0.2,
                memory_bytes=2.0**30,
                loss=3.25),
            Run(plan="auto",
                ranks=2,
                axes="dp=2 auto",
                tokens_per_s=2000.0,
                batch_s=0.125,
                expected_s=0.1,
                memory_bytes=2.0**29,
                loss=3.25)
        ]
        check_golden(self, table(runs), """
            | ranks | plan | mesh | tokens/s | batch | expected | memory | loss |
            | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |
            | 2 | auto | dp=2 auto | 2,000 | 125.0 ms | 100.0 ms | 512 MiB | 3.2500 |
            | 2 | ddp | dp=2 ddp | 1,000 | 250.0 ms | 200.0 ms | 1,024 MiB | 3.2500 |
            | 2 | fsdp | no such plan | | | | | |
            """)

    @nightly
    def test_run(self) -> None:
        printed = io.StringIO()
        with tempfile.TemporaryDirectory(
        ) as folder, contextlib.redirect_stdout(
                printed), contextlib.redirect_stderr(printed):
            path = Path(folder, "table.md")
            code = main([
                "examples/configs/gpt_tiny.yaml", "--ranks", "2", "--plan",
                "ddp", "rubbish", "--steps", "2", "--output",
                str(path)
            ])
            self.assertEqual(code, 0, printed.getvalue())
            lines = path.read_text().splitlines()
        self.assertIn("| 2 | ddp | dp=2 ddp |", lines[2])
        self.assertIn("there is no recipe 'rubbish'", lines[3])


if __name__ == "__main__":
    unittest.main()
