"""The step in time says what was priced, and traces say the same."""

from __future__ import annotations

import json
from unittest import TestCase

from planner.candidate import Candidate
from planner.explain.causes import parts
from planner.explain.dot import format_dot
from planner.explain.timeline import COMMUNICATION, COMPUTE, step_timeline
from planner.explain.trace import trace_events
from planner.ir.program import Program
from planner.planning import Planning
from planner.recipes import RECIPES
from tests.golden import check_golden
from tests.test_planner.test_explain.pages import GRID, piped, plain
from tests.test_planner.test_planning.programs import (mlp, planning_on,
                                                       slow_cluster, zoo)


def _llama() -> tuple[Program, Candidate]:
    planning = planning_on(zoo("llama"), 4)
    chosen = planning.from_recipe(RECIPES["fsdp"]() * RECIPES["megatron"](),
                                  GRID)
    return planning.program, planning.recomputed(chosen, ["LlamaDecoderLayer"])


class TestBlocks(TestCase):

    def test_adds_up_to_the_price(self) -> None:
        program, chosen = _llama()
        timeline = step_timeline(program, chosen)
        beyond = ("waiting", "optimizer")
        blocks = [
            s for s in timeline.spans
            if s.kind not in beyond and s.name != "packing of messages"
        ]
        now_s, kinds = 0.0, dict.fromkeys((COMPUTE, COMMUNICATION), 0.0)
        for span in blocks:
            self.assertAlmostEqual(span.start_s, now_s, delta=1e-12)
            now_s = span.end_s
            kinds[span.stream] += span.end_s - span.start_s
        price = chosen.price
        self.assertAlmostEqual(now_s, price.time_s, delta=1e-12)
        self.assertAlmostEqual(kinds[COMMUNICATION],
                               price.communication_s,
                               delta=1e-12)
        self.assertAlmostEqual(kinds[COMPUTE],
                               price.compute_s + price.local_s,
                               delta=1e-12)

    def test_ends_with_what_has_no_place(self) -> None:
        """Waiting for the host is most of a step of so small a model."""
        program, chosen = _llama()
        timeline = step_timeline(program, chosen)
        spent = parts(chosen)
        self.assertGreater(spent["waiting for the host"], chosen.time_s / 2)
        for cause in ("waiting for the host", "optimizer"):
            self.assertAlmostEqual(sum(s.end_s - s.start_s
                                       for s in timeline.spans
                                       if s.name == cause),
                                   spent[cause],
                                   delta=1e-12)
        hidden_s = (chosen.price.communication_s -
                    sum(t for cause, t in spent.items()
                        if cause.startswith("communication")))
        self.assertAlmostEqual(timeline.end_s,
                               chosen.time_s + hidden_s,
                               delta=1e-12)
        self.assertEqual(timeline.spans[-1].kind, "optimizer")

    def test_backward_is_the_other_way_round(self) -> None:
        program, chosen = _llama()
        spans = step_timeline(program, chosen).spans
        forward = [s.label for s in spans if s.kind == "forward"]
        backward = [s.label for s in spans if s.kind == "backward"]
        self.assertEqual(forward, backward[::-1])
        again = [s.label for s in spans if s.kind == "forward again"]
        self.assertEqual(again, ["2", "1", "0"])


class TestPipeline(TestCase):

    def test_follows_the_simulation(self) -> None:
        planning, chosen, _ = piped()
        timeline = step_timeline(planning.program, chosen)
        assert chosen.step is not None
        self.assertEqual(timeline.ranks, ("pp 0", "pp 1"))
        self.assertAlmostEqual(timeline.end_s, chosen.time_s, delta=1e-12)
        for rank in range(2):
            own = [
                s for s in timeline.spans if s.rank == rank
                and s.stream == COMPUTE and s.kind != "optimizer"
            ]
            busy_s = sum(s.end_s - s.start_s for s in own)
            self.assertAlmostEqual(busy_s +
                                   chosen.step.simulation.idle_s[rank],
                                   chosen.step.simulation.makespan_s,
                                   delta=1e-12)
        self.assertAlmostEqual(max(s.end_s for s in timeline.spans
                                   if s.kind != "optimizer"),
                               chosen.step.step_s,
                               delta=1e-12)

    def test_messages_arrive_before_they_are_read(self) -> None:
        planning, chosen, _ = piped()
        spans = step_timeline(planning.program, chosen).spans
        sent = [s for s in spans if s.kind == "message"]
        # Values one way and gradients the other, of two micro-batches.
        self.assertEqual(len(sent), 4)
        first = min(s.start_s for s in spans
                    if s.rank == 1 and s.stream == COMPUTE)
        self.assertGreaterEqual(first + 1e-12, min(s.end_s for s in sent))


class TestTrace(TestCase):

    def test_events(self) -> None:
        for planning, chosen, _ in (plain(), piped()):
            timeline = step_timeline(planning.program, chosen)
            trace = json.loads(json.dumps(trace_events(timeline)))
            events = trace["traceEvents"]
            names = [e for e in events if e["ph"] == "M"]
            self.assertEqual(len(names), 3 * len(timeline.ranks))
            whole = [e for e in events if e["ph"] == "X"]
            begun = [e for e in events if e["ph"] == "b"]
            ended = [e for e in events if e["ph"] == "e"]
            self.assertEqual(len(whole) + len(begun), len(timeline.spans))
            self.assertEqual([e["id"] for e in begun],
                             [e["id"] for e in ended])
            self.assertEqual({e["pid"]
                              for e in whole}, set(range(len(timeline.ranks))))
            last = max(e["ts"] + e["dur"] for e in whole)
            self.assertAlmostEqual(last, timeline.end_s * 1e6, delta=1e-3)


class TestDot(TestCase):

    def test_small_model(self) -> None:
        planning = Planning(mlp(), slow_cluster(4, 1e8))
        chosen = planning.from_recipe(RECIPES["ddp"]() * RECIPES["megatron"](),
                                      GRID)
        check_golden(
            self, format_dot(planning.program, chosen), """
            digraph "Sequential" {
              node [shape=box, fontname=monospace];
              edge [fontname=monospace, fontsize=10];
              "glue.0" [label="glue.0\\nSequential"];
              "input:0" -> "glue.0" [label="4x4\\nS(0) R"];
              "input:1" -> "glue.0" [label="4x4\\nS(0) R"];
            }
            """)

    def test_pipeline(self) -> None:
        planning, chosen, _ = piped()
        text = format_dot(planning.program, chosen)
        self.assertEqual(text.count(" -> "), text.count("S("))
