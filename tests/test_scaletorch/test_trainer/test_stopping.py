"""Signals ask for an end; a second Ctrl-C is one."""

from __future__ import annotations

import os
import signal
import unittest
from unittest import mock

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from scaletorch.runtime.agree import Agreement
from scaletorch.runtime.ranks import run_ranks
from scaletorch.trainer.stopping import Stop

HEEDED = (signal.SIGTERM, signal.SIGINT)


def stop_of_all() -> Stop:
    return Stop(Agreement(init_device_mesh("cpu", (dist.get_world_size(), ))))


class TestStop(unittest.TestCase):

    def test_all_ranks_hear_of_the_highest(self) -> None:

        def work(rank: int) -> list[int]:
            stop = stop_of_all()
            found = [stop.agreed()]
            for asking, number in ((2, signal.SIGINT), (1, signal.SIGTERM),
                                   (0, signal.SIGINT)):
                if rank == asking:
                    stop.ask(number)
                found.append(stop.agreed())
            return found

        self.assertEqual(run_ranks(3, work), [[0, 2, 15, 15]] * 3)

    def test_a_rank_that_is_gone_is_named(self) -> None:

        def work(rank: int) -> None:
            stop = stop_of_all()
            if rank == 0:
                with mock.patch("torch.distributed.all_reduce",
                                side_effect=RuntimeError("closed")):
                    with self.assertRaisesRegex(
                            RuntimeError, "agreeing on whether to go on "
                            "failed: rank 1 is gone or does not answer"):
                        stop.agreed()

        run_ranks(2, work)

    def test_in_threads_there_are_no_signals(self) -> None:

        def work(rank: int) -> None:
            del rank
            before = [signal.getsignal(n) for n in HEEDED]
            with stop_of_all().on_signal():
                assert [signal.getsignal(n) for n in HEEDED] == before

        run_ranks(1, work)

    def test_signals_ask(self) -> None:
        before = [signal.getsignal(n) for n in HEEDED]
        dist.init_process_group("fake", rank=0, world_size=1)
        self.addCleanup(dist.destroy_process_group)
        stop = stop_of_all()
        with stop.on_signal(), self.assertNoLogs("scaletorch"):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            self.assertEqual(stop.agreed(), signal.SIGTERM)
        stop = stop_of_all()
        with stop.on_signal():
            with self.assertLogs("scaletorch", "WARNING") as logs:
                os.kill(os.getpid(), signal.SIGINT)
            self.assertIn("a second Ctrl-C ends it", logs.output[0])
            self.assertEqual(stop.agreed(), signal.SIGINT)
            self.assertEqual([signal.getsignal(n) for n in HEEDED],
                             [signal.SIG_DFL] * 2)
        self.assertEqual([signal.getsignal(n) for n in HEEDED], before)


if __name__ == "__main__":
    unittest.main()
