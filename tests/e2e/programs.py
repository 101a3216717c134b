"""Programs in processes of their own, from the project's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from unittest import TestCase

from tests.tree import ROOT

__all__ = ["printed"]


def printed(test: TestCase, *words: str, timeout_s: float = 300) -> str:
    """What Python prints when it is given these words."""
    done = subprocess.run([sys.executable, *words],
                          cwd=ROOT,
                          env=os.environ | {
                              "PYTHONPATH": str(ROOT),
                              "OMP_NUM_THREADS": "1"
                          },
                          capture_output=True,
                          text=True,
                          timeout=timeout_s,
                          check=False)
    test.assertEqual(done.returncode, 0, done.stderr)
    return done.stdout
