"""What the launch scripts start, seen through stand-ins for the programs."""

from __future__ import annotations

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from tests.tree import ROOT


class TestLaunchScripts(unittest.TestCase):

    def started(self, *command: str, **variables: str) -> list[str]:
        """The words that the interpreter would be started with."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {
                    # Asked for the accelerators, it finds none.
                    "interpreter":
                    '[[ $1 == -c ]] && echo 2 || printf "%s\\n" "$@"',
                    "scontrol": 'echo "$3" | sed "s/node\\[1-2\\]/node1\\n'
                    'node2/"',
                    "srun": 'exec "$@"'
            }.items():
                path = Path(folder, name)
                path.write_text(f"#!/usr/bin/env bash\n{text}\n")
                path.chmod(0o755)
            done = subprocess.run(command,
                                  cwd=ROOT,
                                  env={
                                      "PATH": f"{folder}:{os.environ['PATH']}",
                                      "PYTHON": f"{folder}/interpreter",
                                      **variables
                                  },
                                  capture_output=True,
                                  text=True,
                                  check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.split("\n")[:-1]

    def test_one_node(self) -> None:
        self.assertEqual(
            self.started("scripts/launch.sh", "a.yaml", "x=1", RANKS="3"), [
                "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", "3", "-m", "scaletorch.train", "a.yaml",
                "x=1"
            ])

    def check_nodes(self, words: list[str], *, host: str, nodes: str,
                    ranks: str, job: str) -> None:
        options = dict(zip(words[2:-3:2], words[3:-2:2]))
        self.assertEqual(
            options, {
                "--nnodes": nodes,
                "--nproc-per-node": ranks,
                "--rdzv-backend": "c10d",
                "--rdzv-endpoint": host,
                "--rdzv-id": job,
                "--max-restarts": "0"
            })
        self.assertEqual(words[-3:], ["-m", "scaletorch.train", "a.yaml"])

    def test_many_nodes(self) -> None:
        self.check_nodes(self.started("scripts/launch_multinode.sh",
                                      "a.yaml",
                                      NODES="2",
                                      HOST="node0:29400"),
                         host="node0:29400",
                         nodes="2",
                         ranks="2",
                         job="scaletorch")

    def test_slurm(self) -> None:
        self.check_nodes(self.started("bash",
                                      "scripts/slurm.sbatch",
                                      "a.yaml",
                                      SLURM_NNODES="2",
                                      SLURM_JOB_NODELIST="node[1-2]",
                                      SLURM_JOB_ID="17",
                                      SLURM_GPUS_ON_NODE="8"),
                         host="node1:20017",
                         nodes="2",
                         ranks="8",
                         job="17")

    def test_slurm_without_gpus(self) -> None:
        self.check_nodes(self.started("bash",
                                      "scripts/slurm.sbatch",
                                      "a.yaml",
                                      RANKS="4",
                                      SLURM_NNODES="2",
                                      SLURM_JOB_NODELIST="node[1-2]",
                                      SLURM_JOB_ID="20018"),
                         host="node1:20018",
                         nodes="2",
                         ranks="4",
                         job="20018")

    def test_what_is_missing_is_named(self) -> None:
        done = subprocess.run(["scripts/launch_multinode.sh", "a.yaml"],
                              cwd=ROOT,
                              env={"PATH": os.environ["PATH"]},
                              capture_output=True,
                              text=True,
                              check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("set NODES to the number of machines", done.stderr)


if __name__ == "__main__":
    unittest.main()
