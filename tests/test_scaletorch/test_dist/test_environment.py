"""Launchers' variables, and what is said where they are missing."""

from __future__ import annotations

import unittest

from scaletorch.dist import read_environment
from scaletorch.dist.environment import first_host

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "head",
    "MASTER_PORT": "1234"
}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),3",
    "SLURM_JOB_NODELIST": "gpu[03-04,9]"
}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2"
}


def without(variables: dict[str, str], name: str) -> dict[str, str]:
    return {k: v for k, v in variables.items() if k != name}


class TestLaunchers(unittest.TestCase):

    def test_torchrun(self) -> None:
        found = read_environment({
            **TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2",
            "TORCHELASTIC_USE_AGENT_STORE": "True"
        })
        self.assertEqual((found.launcher, found.rank, found.world_size,
                          found.local_rank, found.local_world_size, found.host,
                          found.port, found.restart, found.agent_store),
                         ("torchrun", 5, 8, 1, 4, "head", 1234, 2, True))

    def test_torchrun_counts_before_an_outer_launcher(self) -> None:
        found = read_environment({**SLURM, **OPENMPI, **TORCHRUN})
        self.assertEqual(found.launcher, "torchrun")

    def test_slurm(self) -> None:
        found = read_environment(SLURM)
        self.assertEqual(
            (found.launcher, found.rank, found.world_size, found.local_rank,
             found.local_world_size, found.host),
            ("slurm", 3, 7, 3, 2, "gpu03"))
        other = read_environment({**SLURM, "SLURM_PROCID": "0"})
        self.assertEqual(found.port, other.port)

    def test_mpi_on_one_host_needs_no_address(self) -> None:
        found = read_environment(OPENMPI)
        self.assertEqual((found.launcher, found.rank, found.host, found.port),
                         ("openmpi", 1, "127.0.0.1", 29500))
        found = read_environment({
            "PMI_RANK": "1",
            "PMI_SIZE": "4",
            "MPI_LOCALRANKID": "1",
            "MPI_LOCALNRANKS": "2",
            "MASTER_ADDR": "a",
            "MASTER_PORT": "7"
        })
        self.assertEqual((found.launcher, found.local_rank, found.host),
                         ("pmi", 1, "a"))

    def test_alone(self) -> None:
        found = read_environment({})
        self.assertEqual((found.launcher, found.rank, found.world_size),
                         ("none", 0, 1))
        batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
        self.assertEqual(read_environment(batch).launcher, "none")

    def test_hosts(self) -> None:
        for text, first in (("n1", "n1"), ("n1,n2", "n1"),
                            ("a-b[1,3]", "a-b1"), ("r[08-11]-ib,x", "r08-ib")):
            self.assertEqual(first_host(text), first)
        with self.assertRaisesRegex(ValueError, "no list of hosts"):
            first_host("")


class TestErrors(unittest.TestCase):

    def check(self, variables: dict[str, str], text: str) -> None:
        with self.assertRaisesRegex(ValueError, text):
            read_environment(variables)

    def test_each_missing_variable_is_named(self) -> None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR",
                     "MASTER_PORT"):
            with self.subTest(name):
                self.check(without(TORCHRUN, name),
                           f"torchrun: .*{name} is not set.*torchrun")
        self.check(without(SLURM, "SLURM_NTASKS"),
                   "slurm: .*SLURM_NTASKS is not set; .* srun")

    def test_mpi_over_hosts_needs_an_address(self) -> None:
        self.check({
            **OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"
        }, "openmpi: .*MASTER_ADDR is not set; set it to the host")

    def test_a_batch_script_is_not_a_rank(self) -> None:
        self.check(without(SLURM, "SLURM_STEP_ID"),
                   "SLURM_STEP_ID is not set.*7 tasks.*srun")

    def test_nonsense(self) -> None:
        self.check({
            **TORCHRUN, "RANK": "x"
        }, "RANK is 'x', which is no "
                   "number")
        self.check({**TORCHRUN, "RANK": "8"}, "rank 8 is not one of 8 ranks")


if __name__ == "__main__":
    unittest.main()
