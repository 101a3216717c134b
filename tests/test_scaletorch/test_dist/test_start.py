"""Joining a job: alone, simulated, in real processes and once more."""

from __future__ import annotations

import socket
import unittest
from typing import Any

import torch

from scaletorch import dist
from scaletorch.dist.devices import backend_for, device_for
from tests.launch import launch


def meet(rank: int) -> list[Any]:
    """Leave the test's own group, and join twice as a launcher would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = dist.broadcast_object(probe.getsockname()[1])
    found: list[Any] = []
    for restart in ("0", "1"):
        dist.shutdown()
        process = dist.init("cpu",
                            timeout_s=20,
                            variables={
                                "RANK": str(rank),
                                "WORLD_SIZE": "2",
                                "LOCAL_RANK": str(rank),
                                "LOCAL_WORLD_SIZE": "2",
                                "MASTER_ADDR": "127.0.0.1",
                                "MASTER_PORT": str(port),
                                "TORCHELASTIC_RESTART_COUNT": restart
                            })
        part = torch.arange(6.).reshape(2, 3).T[rank:] + rank
        found += [
            process.restart, process.backend,
            [t.tolist() for t in dist.all_gather(part)],
            [t.tolist() for t in dist.all_to_all([part, part[:1]])],
            dist.all_reduce(part[:2]).tolist(),
            dist.gather(part.to(torch.float8_e4m3fn)) is None,
            dist.scatter([part, part[:1]] if rank == 0 else None).tolist(),
            dist.sync({"loss": rank}),
            dist.broadcast_nested({"x": part})["x"].tolist(),
            dist.scatter_object([1, 2] if rank == 0 else None)
        ]
    return found


def torn(rank: int) -> str:
    """All ranks see the mistake that only one of them made."""
    try:
        dist.all_reduce(torch.ones(2 + rank))
    except ValueError as error:
        return str(error)
    return "nothing was raised"


class TestInit(unittest.TestCase):

    def test_alone(self) -> None:
        process = dist.init("cpu", variables={})
        try:
            self.assertEqual(
                (process.rank, process.world_size, process.launcher,
                 str(process.device)), (0, 1, "none", "cpu"))
            self.assertTrue(process.is_main and process.is_local_main)
            again = dist.init("cpu", variables={})
            self.assertEqual(again.world_size, 1)
        finally:
            dist.shutdown()
        dist.shutdown()

    def test_simulated(self) -> None:
        found = dist.run_ranks(3, lambda rank: dist.init(variables={}))
        self.assertEqual([p.rank for p in found], [0, 1, 2])
        self.assertEqual({p.world_size for p in found}, {3})
        self.assertEqual({str(p.device) for p in found}, {"cpu"})

    def test_processes_meet_and_meet_again(self) -> None:
        first, second = launch(2, meet)
        self.assertEqual(first[:2], [0, "gloo"])
        parts = [[[0, 3], [1, 4], [2, 5]], [[2, 5], [3, 6]]]
        half = len(first) // 2
        for found, rank in ((first, 0), (second, 1)):
            self.assertEqual(found[1:half], found[half + 1:])
            self.assertEqual(found[half], 1)
            self.assertEqual(found[2], parts)
            self.assertEqual(found[3], [p[:1] if rank else p for p in parts])
            self.assertEqual(found[4], [[2, 8], [4, 10]])
            self.assertEqual(found[5], rank == 1)
            self.assertEqual(found[6], parts[0][:1] if rank else parts[0])
            self.assertEqual(found[7], {"loss": 0.5})
            self.assertEqual(found[8], parts[0])
            self.assertEqual(found[9], rank + 1)

    def test_a_mistake_does_not_end_processes(self) -> None:
        for text in launch(2, torn):
            self.assertRegex(text, "rank 0 has .*rank 1 has")

    def test_nobody_comes(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        variables = {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port)
        }
        with self.assertRaisesRegex(
                RuntimeError, r"rank 0 of 2 \(torchrun\) did not meet the "
                "others at 127.0.0.1"):
            dist.init("cpu", timeout_s=1, variables=variables)


class TestDevices(unittest.TestCase):

    def test_backends(self) -> None:
        self.assertEqual(backend_for(torch.device("cuda", 1)),
                         "cpu:gloo,cuda:nccl")
        self.assertEqual(backend_for(torch.device("xpu")), "cpu:gloo,xpu:xccl")
        with self.assertRaisesRegex(ValueError, "no backend for meta"):
            backend_for(torch.device("meta"))

    def test_devices(self) -> None:
        self.assertEqual(device_for("cpu", local_rank=3), torch.device("cpu"))
        self.assertEqual(device_for("cuda:2", local_rank=0),
                         torch.device("cuda", 2))
        with self.assertRaisesRegex(
                ValueError, "local rank 4000 needs a "
                "cuda device of its own"):
            device_for("cuda", local_rank=4000)


if __name__ == "__main__":
    unittest.main()
