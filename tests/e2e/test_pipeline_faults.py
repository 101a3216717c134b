"""A lost rank of a pipeline is named by all others, and nobody hangs."""

from __future__ import annotations

import signal
import unittest
from typing import Any

from tests.e2e import pipeline_faults
from tests.launch import LaunchError, launch
from tests.markers import nightly

_GROUP_TIMEOUT_S = 6.0


def _end(text: str) -> str:
    """Of a traceback: the error, and where in the model it was raised."""
    return "\n".join(text.strip().splitlines()[-2:])


class TestPipelineFaults(unittest.TestCase):

    def failures(self,
                 ranks: int,
                 function: Any,
                 *args: Any,
                 group_timeout_s: float = _GROUP_TIMEOUT_S) -> dict[int, str]:
        with self.assertRaises(LaunchError) as caught:
            launch(ranks,
                   function,
                   *args,
                   timeout_s=60 + 10 * group_timeout_s,
                   group_timeout_s=group_timeout_s)
        return caught.exception.failures

    def check_named(self, failures: dict[int, str], ranks: int,
                    lost: int) -> None:
        self.assertEqual(sorted(failures), list(range(ranks)))
        for rank, text in failures.items():
            if rank == lost:
                continue
            self.assertRegex(
                _end(text),
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

    def check_collective(self,
                         what: str,
                         axis: str,
                         which: signal.Signals,
                         *,
                         compile: bool = False) -> None:
        # A lost connection is noticed at once, a hanging rank in the end.
        limit_s = 30.0 if which == signal.SIGKILL else 15.0
        failures = self.failures(4,
                                 pipeline_faults.signal_in_collective,
                                 what,
                                 axis,
                                 int(which),
                                 compile,
                                 group_timeout_s=limit_s)
        self.assertEqual(failures[3], "died")
        self.check_named(failures, 4, 3)
        self.assertIn(what, _end(failures[2]))

    def test_killed_before_a_collective_of_the_model(self) -> None:
        self.check_collective("a collective of the model", "tp",
                              signal.SIGKILL)

    @nightly
    def test_stopped_before_a_collective_of_the_model(self) -> None:
        self.check_collective("a collective of the model", "tp",
                              signal.SIGSTOP)

    @nightly
    def test_killed_before_gathering(self) -> None:
        self.check_collective("gathering parameters", "dp", signal.SIGKILL)

    @nightly
    def test_killed_before_reducing(self) -> None:
        self.check_collective("reducing gradients", "dp", signal.SIGKILL)

    @nightly
    def test_stopped_before_reducing(self) -> None:
        self.check_collective("reducing gradients", "dp", signal.SIGSTOP)

    def test_own_exception(self) -> None:
        failures = self.failures(2, pipeline_faults.fail_between_steps, 1)
        self.assertIn("ValueError: the loop's own error", failures[1])
        self.check_named(failures, 2, 1)

    def test_groups_of_a_mesh_wait_no_longer(self) -> None:
        found = launch(4, pipeline_faults.timeouts_s, group_timeout_s=40.0)
        self.assertEqual(found, [[40.0, 40.0]] * 4)


if __name__ == "__main__":
    unittest.main()
