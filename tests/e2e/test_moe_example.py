"""The example of a mixture runs on two real ranks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unittest

from tests.tree import ROOT


class TestMoe(unittest.TestCase):

    def test_two_ranks(self) -> None:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", "2", "examples/moe.py", "--steps", "6",
            "--compare", "4", "--context", "16"
        ]
        done = subprocess.run(command,
                              cwd=ROOT,
                              env={
                                  **os.environ, "PYTHONPATH": str(ROOT),
                                  "OMP_NUM_THREADS": "1"
                              },
                              timeout=240,
                              capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        self.assertIn("on 2 ranks", done.stdout)
        for layer in (0, 1):
            found = re.search(rf"layers.{layer}: tokens \[(.*)\], the busiest",
                              done.stdout)
            assert found is not None, done.stdout
            # 8 x 16 tokens go to two experts each.
            self.assertEqual(sum(map(int, found[1].split(","))), 256)
        difference = done.stdout.split()[-1]
        self.assertLess(float(difference), 1e-3)


if __name__ == "__main__":
    unittest.main()
