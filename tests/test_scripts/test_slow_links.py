"""Slow links: when frames arrive, and simulated hosts that use them."""

from __future__ import annotations

import os
import shutil
import subprocess
import unittest
from pathlib import Path

from scripts.slow_links import Switch

_SCRIPT = Path(__file__).parents[2] / "scripts" / "netns_cluster.sh"
_A, _B, _ALL = b"\x02aaaaa", b"\x02bbbbb", b"\xff" * 6


def _frame(target: bytes, source: bytes, size: int) -> bytes:
    return (target + source).ljust(size, b"\0")


class TestSwitch(unittest.TestCase):

    def test_a_frame_takes_its_bytes_and_the_delay(self) -> None:
        switch = Switch(ports=2, bytes_per_s=1000.0, delay_s=0.5)
        switch.arrivals(_frame(_ALL, _B, 0), 1, 0.0)
        # 0.1 s on the way out, which the other cable takes in meanwhile.
        found = switch.arrivals(_frame(_B, _A, 100), 0, 10.0)
        self.assertEqual(found, [(10.6, 1)])

    def test_frames_queue(self) -> None:
        switch = Switch(ports=2, bytes_per_s=1000.0, delay_s=0.0)
        switch.arrivals(_frame(_ALL, _B, 0), 1, 0.0)
        times = [
            switch.arrivals(_frame(_B, _A, 100), 0, 0.0)[0][0]
            for _ in range(3)
        ]
        for time_s, expected in zip(times, (0.1, 0.2, 0.3), strict=True):
            self.assertAlmostEqual(time_s, expected)

    def test_two_senders_share_the_way_in(self) -> None:
        switch = Switch(ports=3, bytes_per_s=1000.0, delay_s=0.0)
        switch.arrivals(_frame(_ALL, _B, 0), 2, 0.0)
        other = b"\x02ccccc"
        ((first_s, _), ) = switch.arrivals(_frame(_B, _A, 100), 0, 0.0)
        ((second_s, _), ) = switch.arrivals(_frame(_B, other, 100), 1, 0.0)
        self.assertAlmostEqual(first_s, 0.1)
        self.assertAlmostEqual(second_s, 0.2)

    def test_unknown_addresses_go_everywhere(self) -> None:
        switch = Switch(ports=3, bytes_per_s=0.0, delay_s=0.0)
        self.assertEqual(
            [p for _, p in switch.arrivals(_frame(_B, _A, 64), 1, 0.0)],
            [0, 2])
        self.assertEqual(
            [p for _, p in switch.arrivals(_frame(_A, _B, 64), 0, 0.0)], [1])


def _script(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(_SCRIPT), *args],
                          capture_output=True,
                          text=True,
                          check=False,
                          timeout=60,
                          env={
                              **os.environ, "TMPDIR": "/tmp/scaletorch-test"
                          })


def _why_not() -> str:
    """Why namespaces can't be made here; empty where they can."""
    for name in ("ip", "unshare"):
        if shutil.which(name) is None:
            return f"there is no {name}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        listed = subprocess.run(["ip", "netns", "list"],
                                capture_output=True,
                                text=True,
                                check=False)
        if "scaletorch-host" in listed.stdout:
            return "simulated hosts are in use"
        made = subprocess.run(["ip", "netns", "add", "scaletorch-probe"],
                              capture_output=True,
                              text=True,
                              check=False)
        if made.returncode == 0:
            subprocess.run(["ip", "netns", "delete", "scaletorch-probe"],
                           check=False)
        return made.stderr.strip()
    except OSError as error:
        return str(error)


class TestHosts(unittest.TestCase):

    def setUp(self) -> None:
        reason = _why_not()
        if reason:
            self.skipTest(reason)
        Path("/tmp/scaletorch-test").mkdir(exist_ok=True)
        self.addCleanup(shutil.rmtree, "/tmp/scaletorch-test", True)
        self.addCleanup(_script, "destroy")

    def test_created_used_and_gone(self) -> None:
        made = _script("create", "2", "10mbit", "20ms")
        self.assertEqual(made.stdout, "2 hosts, 10mbit, 20ms one way\n",
                         made.stderr)
        self.assertEqual(_script("exec", "1", "hostname").stdout, "sim1\n")
        ranks = _script("run", "2", "sh", "-c", "echo $(hostname) $RANK")
        self.assertEqual(sorted(ranks.stdout.splitlines()),
                         ["sim0 0", "sim0 1", "sim1 2", "sim1 3"])
        self.assertEqual(_script("destroy").returncode, 0)
        listed = subprocess.run(["ip", "netns", "list"],
                                capture_output=True,
                                text=True,
                                check=False)
        self.assertNotIn("scaletorch-host", listed.stdout)

    def test_mistakes(self) -> None:
        self.assertIn("a rate is like 100mbit",
                      _script("create", "2", "fast", "0").stderr)
        self.assertIn("a delay is like 5ms",
                      _script("create", "2", "0", "soon").stderr)
        self.assertIn("there are no hosts", _script("run", "1", "true").stderr)


if __name__ == "__main__":
    unittest.main()
