"""Commands end quietly where what they print to is closed."""

from __future__ import annotations

import subprocess
import sys
import unittest

from planner.piped import piped

_COMMAND = """
import sys
from planner.piped import piped

def main():
    for number in range(100_000):
        print("a line of a long table", number)

sys.exit(piped(main))
"""


class TestPiped(unittest.TestCase):

    def test_a_reader_that_stops_early_is_no_error(self) -> None:
        with subprocess.Popen([sys.executable, "-c", _COMMAND],
                              stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE,
                              text=True) as process:
            assert process.stdout is not None and process.stderr is not None
            self.assertEqual(process.stdout.readline(),
                             "a line of a long table 0\n")
            process.stdout.close()
            self.assertEqual(process.stderr.read(), "")
            self.assertEqual(process.wait(), 1)

    def test_statuses_are_kept(self) -> None:
        self.assertEqual((piped(lambda: None), piped(lambda: 2)), (0, 2))


if __name__ == "__main__":
    unittest.main()
