"""The examples run and print what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
import unittest

from tests.tree import ROOT


class TestExamples(unittest.TestCase):

    def printed(self, *command: str) -> str:
        done = subprocess.run([sys.executable, *command],
                              cwd=ROOT,
                              env={
                                  "PYTHONPATH": str(ROOT),
                                  "OMP_NUM_THREADS": "1"
                              },
                              capture_output=True,
                              text=True,
                              timeout=300,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_train_gpt_alone(self) -> None:
        small = ("--context", "16", "--width", "32", "--depth", "1")
        losses = [
            float(
                self.printed("examples/train_gpt.py", "--steps", steps,
                             *small).split()[-1]) for steps in ("1", "40")
        ]
        self.assertAlmostEqual(losses[0], 4.6, delta=0.3)
        self.assertLess(losses[1], losses[0] - 0.5)

    def test_long_context(self) -> None:
        text = self.printed("-m", "torch.distributed.run", "--standalone",
                            "--nproc-per-node", "2",
                            "examples/long_context.py", "--context", "256",
                            "--steps", "2")
        kept = [float(x) for x in re.findall(r": ([\d.]+) MiB", text)]
        self.assertEqual(len(kept), 4)
        self.assertEqual(kept, sorted(kept, reverse=True))
        self.assertLess(float(text.split()[-1]), 1e-4)

    def test_explain_llama(self) -> None:
        text = self.printed("-m", "planner.explain",
                            "examples/explain_llama.py", "--mesh", "dp=4,tp=8")
        self.assertIn("Llama on h100-sxm, dp=4 x tp=8", text)
        self.assertIn("LlamaLayer x 32", text)


if __name__ == "__main__":
    unittest.main()
