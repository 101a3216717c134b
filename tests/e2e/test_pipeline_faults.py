"""A lost rank of a pipeline is named by all others, and nobody hangs."""

from __future__ import annotations

import signal
import unittest
from typing import Any

from tests.e2e import pipeline_faults
from tests.launch import LaunchError, launch
from tests.markers import nightly

_GROUP_TIMEOUT_S = 6.0


class TestPipelineFaults(unittest.TestCase):

    def failures(self, ranks: int, function: Any, *args:
                 Any) -> dict[int, str]:
        with self.assertRaises(LaunchError) as caught:
            launch(ranks, function, *args, group_timeout_s=_GROUP_TIMEOUT_S)
        return caught.exception.failures

    def check_named(self, failures: dict[int, str], ranks: int,
                    lost: int) -> None:
        self.assertEqual(sorted(failures), list(range(ranks)))
        for rank, text in failures.items():
            if rank == lost:
                continue
            self.assertRegex(
                text.strip().splitlines()[-1],
                rf"RuntimeError: .* failed: rank {lost}( \(.*?\))? is gone or "
                "does not answer; look for its own error")
            self.assertEqual(text.count("is gone or does not answer"), 1)

    def check_signal(self, which: signal.Signals, ranks: int,
                     lost: int) -> None:
        failures = self.failures(ranks, pipeline_faults.signal_in_mid_schedule,
                                 lost, int(which))
        self.assertEqual(failures[lost], "died")
        self.check_named(failures, ranks, lost)
        neighbour = lost - 1 if lost else 1
        self.assertIn(f"(stage {lost} of the pipeline)", failures[neighbour])

    @nightly
    def test_killed_of_two(self) -> None:
        self.check_signal(signal.SIGKILL, 2, 1)

    def test_killed_of_three(self) -> None:
        self.check_signal(signal.SIGKILL, 3, 2)

    @nightly
    def test_stopped_of_two(self) -> None:
        self.check_signal(signal.SIGSTOP, 2, 0)

    def test_stopped_of_three(self) -> None:
        self.check_signal(signal.SIGSTOP, 3, 2)

    def test_own_exception(self) -> None:
        failures = self.failures(2, pipeline_faults.fail_between_steps, 1)
        self.assertIn("ValueError: the loop's own error", failures[1])
        self.check_named(failures, 2, 1)

    def test_groups_of_a_mesh_wait_no_longer(self) -> None:
        found = launch(4, pipeline_faults.timeouts_s, group_timeout_s=40.0)
        self.assertEqual(found, [[40.0, 40.0]] * 4)


if __name__ == "__main__":
    unittest.main()
