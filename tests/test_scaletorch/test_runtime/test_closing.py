"""Other threads get the interpreter's lock before it is torn down."""

from __future__ import annotations

import subprocess
import sys
import unittest

from tests.tree import ROOT

_SCRIPT = """
import sys, threading
from scaletorch.runtime.closing import let_go_at_exit

let_go_at_exit()
let_go_at_exit()
sys.setswitchinterval(60)  # nobody gets the lock unless it is left to them
ready = threading.Event()


def worker():
    ready.wait()
    print("ran", flush=True)


threading.Thread(target=worker, daemon=True).start()
ready.set()
"""


class TestClosing(unittest.TestCase):

    def test_a_waiting_thread_runs_before_finalisation(self) -> None:
        done = subprocess.run([sys.executable, "-c", _SCRIPT],
                              cwd=ROOT,
                              timeout=120,
                              capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        self.assertEqual(done.stdout, "ran\n")


if __name__ == "__main__":
    unittest.main()
