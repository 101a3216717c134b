from __future__ import annotations

import multiprocessing
import os
import sys
import unittest
from multiprocessing import forkserver
from multiprocessing.connection import Connection

from tests.forked_server import fork_server


def tell(end: Connection, number: int) -> None:
    """What this process has imported, and what it is given."""
    end.send((os.getppid(), "tests.marked" in sys.modules, number))


class TestForkServer(unittest.TestCase):

    def setUp(self) -> None:
        # Another may have been started, and would have nothing of this.
        self.stop()
        self.addCleanup(self.stop)
        sys.modules["tests.marked"] = sys
        self.addCleanup(sys.modules.pop, "tests.marked")
        fork_server()

    def stop(self) -> None:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]

    def ran(self, target: object, *args: object) -> tuple[int, bool, int]:
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=target, args=(theirs, *args))
        process.start()
        theirs.close()
        try:
            self.assertTrue(ours.poll(60))
            return ours.recv()
        finally:
            process.join()
            self.assertEqual(process.exitcode, 0)

    def test_processes_have_what_was_imported(self) -> None:
        server, has_it, number = self.ran(tell, 1)
        self.assertEqual((has_it, number), (True, 1))
        self.assertNotEqual(server, os.getpid())

    def test_it_serves_again(self) -> None:
        first, *_ = self.ran(tell, 1)
        fork_server()
        self.assertEqual(self.ran(tell, 3), (first, True, 3))


if __name__ == "__main__":
    unittest.main()
