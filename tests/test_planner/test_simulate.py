"""Simulated schedules: published bubbles, memory, messages, the command."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
import unittest
from pathlib import Path

import yaml

from planner.cluster.spec import Link
from planner.ir.errors import ScheduleError
from planner.schedule.graph import build_graph
from planner.schedule.named import make_schedule, schedule_names
from planner.schedule.text import parse_schedule
from planner.simulate import (Simulation, StageMemory, StageTimes, main,
                              send_times, simulate)
from tests.golden import check_golden
from tests.tree import ROOT

PUBLISHED = ROOT.parent / "shared" / "measurements" / "schedules.yaml"


def simulated(name: str,
              p: int,
              m: int,
              v: int = 1,
              *,
              forward_s: float = 1.0,
              input_s: float = 1.0,
              weight_s: float = 1.0) -> Simulation:
    return simulate(
        make_schedule(name, ranks=p, microbatches=m, chunks=v),
        StageTimes.uniform(p * v,
                           forward_s=forward_s,
                           input_s=input_s,
                           weight_s=weight_s))


class TestPublishedBubbles(unittest.TestCase):
    """Formulas of the papers, with F, I and W of a rank's whole share."""

    def assert_bubble(self, found: Simulation, bubble_s: float) -> None:
        for idle_s in found.idle_s:
            self.assertAlmostEqual(idle_s, bubble_s)

    def test_gpipe_and_1f1b(self) -> None:
        for p, m in itertools.product((1, 2, 4, 7), (1, 4, 9, 16)):
            for name in ("gpipe", "1f1b"):
                found = simulated(name, p, m, forward_s=1.5)
                self.assert_bubble(found, (p - 1) * (1.5 + 2.0))
                ideal_s = m * 3.5
                self.assertAlmostEqual(found.idle_s[0] / ideal_s, (p - 1) / m)
                self.assertAlmostEqual(found.bubble_fraction,
                                       (p - 1) / (m + p - 1))

    def test_interleaved(self) -> None:
        for p, v, rounds in itertools.product((2, 4), (1, 2, 3), (1, 2, 3)):
            found = simulated("interleaved1f1b",
                              p,
                              rounds * p,
                              v,
                              forward_s=1 / v,
                              input_s=1 / v,
                              weight_s=1 / v)
            self.assert_bubble(found, (p - 1) * 3 / v)

    def test_zbh1(self) -> None:
        for p, m in itertools.product((2, 4, 6), (6, 12)):
            for forward_s, input_s, weight_s in ((1, 1, 1), (1, 1.5, 0.5)):
                found = simulated("zbh1",
                                  p,
                                  m,
                                  forward_s=forward_s,
                                  input_s=input_s,
                                  weight_s=weight_s)
                whole_s = input_s + weight_s
                self.assert_bubble(found, (p - 1) *
                                   (forward_s + whole_s - 2 * weight_s))

    def test_zbv_has_next_to_no_bubble(self) -> None:
        for p, m in itertools.product((2, 4, 6), (12, 24)):
            # A rank's first input has to come: p - 1 forwards of a chunk.
            self.assertAlmostEqual(
                simulated("zbv", p, m, 2).makespan_s, 6 * m + p - 1)

    def test_memory(self) -> None:
        p, m = 4, 12
        expected = {
            ("gpipe", 1): (m, ) * p,
            ("1f1b", 1): (4, 3, 2, 1),
            ("interleaved1f1b", 2): (11, 9, 7, 5),
            ("zbh1", 1): (p, ) * p,
            ("zbv", 2): (2 * p, ) * p,
            ("dualpipev", 2): (2 * p + 1, ) * p,
        }
        for (name, v), count in expected.items():
            self.assertEqual(simulated(name, p, m, v).peak_in_flight, count)
        # Korthikanti et al.: 1 + (p - 1) / (p v) times that of 1F1B.
        self.assertAlmostEqual(11 / 2, 4 * (1 + 3 / 8))

    @unittest.skipUnless(PUBLISHED.exists(), "../shared is not here")
    def test_formulas_are_the_published_ones(self) -> None:
        rows = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
        bubble = {r["name"]: r.get("bubble_time") for r in rows}
        self.assertEqual(bubble["1F1B (PipeDream-flush)"], "(p-1)*(tF+tB)")
        self.assertEqual(bubble["Interleaved 1F1B"], "(p-1)*(tF+tB)/v")
        self.assertEqual(bubble["ZB1P / ZB-H1"], "(PP-1)*(F+B-2W)")


class TestSimulation(unittest.TestCase):

    def setUp(self) -> None:
        self.two = parse_schedule("0F0 0F1 0I0 0W0 0I1 0W1\n"
                                  "1F0 1B0 1F1 1B1")
        self.times = StageTimes(forward_s=(1.0, 2.0),
                                backward_s=(9.0, 4.0),
                                input_s=(1.0, 9.0),
                                weight_s=(0.5, 9.0))

    def test_starts_and_ends(self) -> None:
        found = simulate(self.two, self.times, p2p_s=0.25)
        self.assertEqual([(str(a), s, e) for a, s, e in found.row(1)],
                         [("1F0", 1.25, 3.25), ("1B0", 3.25, 7.25),
                          ("1F1", 7.25, 9.25), ("1B1", 9.25, 13.25)])
        self.assertEqual([(str(a), s) for a, s, _ in found.row(0)],
                         [("0F0", 0), ("0F1", 1), ("0I0", 7.5), ("0W0", 8.5),
                          ("0I1", 13.5), ("0W1", 14.5)])
        self.assertEqual(found.makespan_s, 15.0)
        self.assertEqual(found.idle_s, (10.0, 3.0))
        self.assertEqual(found.bubble, (10 / 15, 3 / 15))

    def test_memory(self) -> None:
        memory = StageMemory(saved_bytes=(10.0, 6.0), held_bytes=(4.0, 6.0))
        found = simulate(self.two, self.times, memory=memory)
        self.assertEqual(found.peak_bytes, (20.0, 6.0))
        self.assertEqual([b for _, b in found.memory_timeline(0)],
                         [10.0, 20.0, 14.0, 10.0, 4.0, 0.0])
        self.assertEqual(found.memory_timeline(1), [(1.0, 6.0), (7.0, 0.0),
                                                    (7.0, 6.0), (13.0, 0.0)])
        self.assertEqual(found.peak_in_flight, (2, 1))

    def test_memory_never_goes_back_in_time_nor_below_nothing(self) -> None:
        for name in schedule_names():
            v = 2 if name in ("zbv", "dualpipev") else 1
            found = simulated(name, 3, 7, v)
            for rank in range(3):
                line = found.memory_timeline(rank)
                self.assertEqual(line, sorted(line, key=lambda p: p[0]))
                self.assertEqual(line[-1][1], 0.0)
                self.assertEqual(max(b for _, b in line),
                                 found.peak_bytes[rank])

    def test_stages_on_one_rank_send_nothing(self) -> None:
        own = parse_schedule("0F0 1F0 1B0 0B0")
        self.assertEqual(
            simulate(own, StageTimes.uniform(2), p2p_s=5.0).makespan_s, 6.0)

    def test_edges_of_their_own_time(self) -> None:
        found = simulate(self.two, self.times, p2p_s={(0, 1): 0.25})
        self.assertEqual(found.makespan_s, 15.0)
        with self.assertRaisesRegex(ValueError, r"time for the edge \(1, 2\)"):
            simulate(self.two, self.times, p2p_s={(1, 2): 0.25})

    def test_skips(self) -> None:
        three = parse_schedule("0F0 0B0\n1F0 1B0\n2F0 2B0")
        edges = ((0, 1), (0, 2), (1, 2))
        times = StageTimes.uniform(3)
        plain = simulate(three, times, edges=edges)
        self.assertEqual(plain.makespan_s, 9.0)
        slow = simulate(three, times, edges=edges, p2p_s={(0, 2): 4.0})
        self.assertEqual(slow.makespan_s, 1 + 4 + 3 + 4 + 2)

    def test_busy_links_send_one_by_one(self) -> None:
        burst = parse_schedule("0F0 0F1 0F2\n1F0 1F1 1F2")
        times = StageTimes.uniform(2)
        free = simulate(burst, times, p2p_s=3.0)
        self.assertEqual([s for _, s, _ in free.row(1)], [4, 5, 6])
        busy = simulate(burst, times, p2p_s=3.0, occupancy_s=2.5)
        self.assertEqual([s for _, s, _ in busy.row(1)], [4, 6.5, 9])

    def test_links_without_occupancy_are_free(self) -> None:
        for name in schedule_names():
            v = 2 if name in ("zbv", "dualpipev") else 1
            schedule = make_schedule(name, ranks=3, microbatches=5, chunks=v)
            for edges in (None, [(0, 1), (1, 2), (0, 2)]):
                plain, other = (simulate(schedule,
                                         StageTimes.uniform(3 * v),
                                         edges=edges,
                                         p2p_s=0.3,
                                         occupancy_s=o) for o in (None, 0.0))
                self.assertEqual(plain.ends_s, other.ends_s)

    def test_graph_is_as_good_as_its_schedule(self) -> None:
        graph = build_graph(self.two)
        self.assertEqual(
            simulate(graph, self.times).ends_s,
            simulate(self.two, self.times).ends_s)

    def test_deadlock_and_wrong_sizes(self) -> None:
        with self.assertRaisesRegex(ScheduleError, "deadlocks"):
            simulate(parse_schedule("1F0 0F0"), StageTimes.uniform(2))
        with self.assertRaisesRegex(ValueError, "times are given for 3 sta"):
            simulate(self.two, StageTimes.uniform(3))
        with self.assertRaisesRegex(ValueError, "memory are given for 1"):
            simulate(self.two, self.times, memory=StageMemory.uniform(1))


class TestTimes(unittest.TestCase):

    def test_slower_ranks(self) -> None:
        times = StageTimes.uniform(4).slowed((0, 1, 1, 0), (1.0, 2.0))
        self.assertEqual(times.forward_s, (1.0, 2.0, 2.0, 1.0))
        self.assertEqual(times.backward_s, (2.0, 4.0, 4.0, 2.0))

    def test_messages_over_a_link(self) -> None:
        link = Link(latency_s=1e-5, bandwidth_bytes_per_s=1e9)
        self.assertEqual(send_times({(0, 1): 1e6}, link),
                         {(0, 1): 1e-5 + 1e-3})

    def test_impossible_numbers(self) -> None:
        with self.assertRaisesRegex(ValueError, "times of F have to be 1 "):
            StageTimes.uniform(1, forward_s=-1.0)
        with self.assertRaisesRegex(ValueError, "a number that isn.t neg"):
            StageMemory.uniform(1, 1.0, -2.0)


class TestCommand(unittest.TestCase):

    def output(self, *argv: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            self.assertEqual(main(argv), 0)
        return out.getvalue()

    def test_picture_and_numbers(self) -> None:
        text = self.output("--schedule", "1f1b", "--ranks", "2",
                           "--microbatches", "3", "--forward", "1",
                           "--backward", "2")
        check_golden(
            self, text, """
            0F0 0F1 .   .   0B0 -   0F2 0B1 -   .   0B2 -
            .   1F0 1B0 -   1F1 1B1 -   1F2 1B2 -   .   .

            makespan 12
            bubble   25.0%

            rank  idle  in flight
            0     3     2
            1     3     1
            """)
        picture = text.partition("\n\n")[0]
        self.assertEqual(parse_schedule(picture),
                         make_schedule("1f1b", ranks=2, microbatches=3))

    def test_page_shows_what_the_command_prints(self) -> None:
        page = (ROOT / "doc" / "schedules.md").read_text(encoding="utf-8")
        command = "--schedule zbh1 --ranks 4 --microbatches 6"
        self.assertIn(command, page)
        self.assertIn(self.output(*command.split()), page)
        for name in (*schedule_names(), "auto"):
            self.assertIn(f"| `{name}` |", page)

    def test_every_name(self) -> None:
        for name in (*schedule_names(), "auto"):
            chunks = "2" if name in ("zbv", "dualpipev") else "1"
            with self.subTest(name):
                self.assertIn(
                    "makespan",
                    self.output("--schedule", name, "--chunks", chunks,
                                "--p2p", "0.5", "--weight", "0.5"))

    def test_own_text(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "own.txt"
            path.write_text("0F0 0B0\n1F0 1B0\n", encoding="utf-8")
            text = self.output("--schedule", str(path), "--ranks", "2",
                               "--microbatches", "1")
        self.assertIn("makespan 6", text)

    def test_errors_are_said_and_not_raised(self) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertEqual(main(["--schedule", "zbv"]), 2)
        self.assertIn("error: zbv has two stages", err.getvalue())


if __name__ == "__main__":
    unittest.main()
