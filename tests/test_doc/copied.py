"""A copy of the project in which the commands of pages are run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests.test_doc.prepared import PREPARED
from tests.test_doc.shown import commands, files, reason_not_to_run, to_run
from tests.tree import ROOT, project_files

__all__ = ["InCopy"]


def missing(line: str, folder: Path) -> str:
    """What a command needs and this machine lacks; empty if nothing."""
    program = shlex.split(line)[0]
    if program in ("chromium", "mpirun",
                   "sqlite3") and not shutil.which(program):
        return f"there is no {program}"
    makes_hosts = "netns_cluster" in line or "shaped_links" in line
    if makes_hosts and os.geteuid() != 0:
        return "network namespaces need root"
    for rows in re.findall(r"\S+\.yaml", line):
        if "scripts." in line and not (folder / rows).exists():
            return f"{rows} is no part of the project"
    return ""


class InCopy(unittest.TestCase):
    """In a copy of the project, as after a clone and an installation."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for path in project_files():
            target = self.folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        self.make_environment(self.folder / ".venv")
        (self.folder / ".home").mkdir()

    def make_environment(self, venv: Path) -> None:
        """What ``scripts/setup_env.sh`` takes for an installation."""
        (venv / "bin").mkdir(parents=True)
        for name, command in (("python", ""), ("torchrun",
                                               "-m torch.distributed.run")):
            path = venv / "bin" / name
            path.write_text("#!/usr/bin/env bash\n"
                            f'exec {sys.executable} {command} "$@"\n')
            path.chmod(0o755)
        (venv / ".scaletorch-installed").touch()

    def run_command(self, line: str) -> None:
        done = subprocess.run(["bash", "-c", line],
                              cwd=self.folder,
                              env=self.environment(),
                              stdin=subprocess.DEVNULL,
                              capture_output=True,
                              text=True,
                              timeout=600,
                              check=False)
        self.assertEqual(done.returncode, 0,
                         f"{line}\n{done.stdout}\n{done.stderr}")

    def environment(self) -> dict[str, str]:
        """As in a shell in which the installation is active."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SCALETORCH_", "XDG_", "SLURM_"))
        }
        first = (self.folder / ".venv/bin", Path(sys.executable).parent)
        return kept | {
            "HOME": str(self.folder / ".home"),
            "OMP_NUM_THREADS": "1",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PATH": ":".join((*map(str, first), kept["PATH"])),
            "PYTHONPATH": str(self.folder)
        }

    def check_page(self, page: str) -> None:
        for name, text in files(page):
            (self.folder / name).write_text(text, encoding="utf-8")
        if page in PREPARED:
            PREPARED[page](self.folder)
        for line in commands()[page]:
            if reason_not_to_run(line):
                continue
            with self.subTest(line):
                lacking = missing(line, self.folder)
                if lacking:
                    self.skipTest(lacking)
                self.run_command(to_run(line))
