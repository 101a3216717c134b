"""What the page shows and what the JSON says are the same numbers."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import TestCase

from planner.explain.__main__ import main
from planner.ir.plan import Plan
from planner.units import format_bytes, format_number, format_time
from tests.test_planner.test_explain.page_tree import Element, parsed, quantity

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "dtype": "bfloat16"
}
_MIXTRAL = {
    **_LLAMA, "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2
}
_BATCH = ("--batch=16", "--seq=1024", "--cluster=h100-sxm")
_CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no stages":
    (_LLAMA, ("--mesh=dp=2,tp=2", "--half-batch", "--constraint=forbid('ddp')",
              "--constraint=forbid('*', tp=S(0))")),
    "stages": (_LLAMA, ("--mesh=pp=2,dp=2,tp=2", )),
    "experts": (_MIXTRAL, ("--mesh=ep=4,tp=2", )),
    "devices":
    (_LLAMA, ("--fit", "--memory-limit-gib=2", "--price-per-device-hour=2")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """One run's JSON, page and trace."""

    report: dict[str, Any]
    page: Element
    trace: list[dict[str, Any]]


@functools.cache
def _shown(case: str) -> _Shown:
    config, argv = _CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / n for n in ("config.json", "a.html", "a.json")]
        model, page, trace = paths
        model.write_text(json.dumps(config), encoding="utf-8")
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(
                io.StringIO()):
            code = main([
                str(model), *_BATCH, *argv, "--json", f"--html={page}",
                f"--trace={trace}"
            ])
        assert code == 0
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
        return _Shown(report=json.loads(out.getvalue()),
                      page=parsed(page.read_text(encoding="utf-8")),
                      trace=[e for e in events if e["ph"] != "M"])


def _of(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test of some cases, or of all."""

    def made(test: Callable[..., None]) -> Callable[..., None]:

        @functools.wraps(test)
        def each(self: TestCase) -> None:
            for name in names or _CASES:
                with self.subTest(name):
                    test(self, _shown(name))

        return each

    return made


class TestAgreement(TestCase):

    @_of()
    def test_cases_have_what_is_compared(self, shown: _Shown) -> None:
        self.assertGreater(shown.report["time"]["exposed_s"], 0)
        self.assertGreater(len(shown.report["candidates"]), 2)

    @_of("no stages")
    def test_constraints_have_a_price(self, shown: _Shown) -> None:
        costs = [c["costs_s"] for c in shown.report["constraints"]]
        self.assertGreater(max(costs), 0)
        self.assertEqual(shown.report["binding"]["kind"], "constraint")

    @_of()
    def test_key_figures(self, shown: _Shown) -> None:
        report, figures = shown.report, shown.page.figures()
        time, memory = report["time"], report["memory"]
        work, solution = report["work"], report["solution"]
        self.assertEqual(figures["step"][0], format_time(time["step_s"]))
        self.assertIn(format_time(time["optimizer_s"]), figures["step"][1])
        self.assertEqual(figures["throughput"][0], format_number(work["rate"]))
        self.assertIn(f"{work['peak_share']:.1%}", figures["throughput"][1])
        self.assertEqual(figures["memory"][0],
                         format_bytes(memory["total_bytes"]))
        self.assertEqual(figures["memory"][1],
                         f"of {format_bytes(memory['limit_bytes'])}, fits")
        self.assertEqual(figures["communication"][0],
                         f"{time['exposed_s'] / time['step_s']:.1%}")
        self.assertEqual(figures["gap"][0], f"{time['gap']:.1%}")
        self.assertIn(format_time(time["bound_s"]), figures["gap"][1])
        self.assertEqual(figures["plans priced"][0],
                         f"{solution['visited']:,}")
        _check_same(solution["gap"], time["gap"])
        _check_same(solution["bound"], time["bound_s"])

    @_of()
    def test_time_by_cause(self, shown: _Shown) -> None:
        time, chart = shown.report["time"], shown.page.chart(
            "where the time goes")
        waiting_s = sum(time[f"{n}_s"]
                        for n in ("waiting", "straggling", "interference",
                                  "host", "around"))
        parts = {
            "forward": time["forward_s"],
            "backward": time["backward_s"],
            "forward again": time["recompute_s"],
            "local copies": time["local_s"],
            "waiting": waiting_s,
            "optimizer": time["optimizer_s"]
        } | {
            f"communication {a['axis']}": a["exposed_s"]
            for a in shown.report["axes"]
        }
        self.assertCountEqual(chart.labels, [
            f"a step, {name}: {format_time(s)}"
            for name, s in parts.items() if s
        ])
        _check_same(sum(parts.values()), time["step_s"])
        self.assertIn(format_time(time["step_s"]), chart.texts)
        for mark in chart.marks:
            start, end = mark.span
            seconds = parts[mark.label.split(", ")[1].split(":")[0]]
            self.assertAlmostEqual(end - start,
                                   chart.across(seconds) - chart.across(0.0),
                                   delta=1.0)

    @_of()
    def test_timeline(self, shown: _Shown) -> None:
        chart = shown.page.chart("the step in time")
        begun = {e["id"]: e["ts"] for e in shown.trace if e["ph"] == "b"}
        spans = [(e["name"], e["ts"], e["dur"]) for e in shown.trace
                 if e["ph"] == "X"]
        spans += [(e["name"], begun[e["id"]], e["ts"] - begun[e["id"]])
                  for e in shown.trace if e["ph"] == "e"]
        self.assertEqual(len(chart.marks), len(spans))
        told = {(name, format_time(dur / 1e6)) for name, _, dur in spans}
        for mark in chart.marks:
            name, _, rest = mark.label.rpartition(": ")
            length, _, start = rest.partition(" from ")
            self.assertIn((name, length), told)
            self.assertAlmostEqual(mark.span[0],
                                   chart.across(quantity(start)),
                                   delta=5.0)

    @_of("no stages", "experts")
    def test_timeline_without_stages(self, shown: _Shown) -> None:
        report, spent = shown.report, defaultdict[str, float](float)
        for event in shown.trace:
            spent[event["cat"]] += event["dur"] / 1e6
        time = report["time"]
        for kind, key in (("forward", "forward_s"), ("backward", "backward_s"),
                          ("forward again", "recompute_s"),
                          ("local copies", "local_s"), ("optimizer",
                                                        "optimizer_s")):
            _check_same(spent.pop(kind, 0.0), time[key])
        _check_same(
            spent.pop("waiting"),
            sum(time[f"{n}_s"]
                for n in ("straggling", "interference", "host", "around")))
        alone = defaultdict[str, float](float)
        for row in _collectives(report):
            alone[f"communication {row['axis']}"] += (row["time_s"] *
                                                      row["count"])
        self.assertEqual(set(spent), set(alone))
        for kind, seconds in alone.items():
            _check_same(spent[kind], seconds)
        end_s = max(e["ts"] + e["dur"] for e in shown.trace) / 1e6
        self.assertIn(
            f"this is {format_time(end_s)}; a step is "
            f"{format_time(time['step_s'])}",
            shown.page.section("step").text)

    @_of("stages")
    def test_timeline_of_stages(self, shown: _Shown) -> None:
        pipeline = shown.report["pipeline"]
        ends = [e["ts"] + e["dur"] for e in shown.trace if e["ph"] == "X"]
        _check_same(max(ends) / 1e6, shown.report["time"]["step_s"])
        self.assertNotIn("one after the other",
                         shown.page.section("step").text)
        spent = defaultdict[str, float](float)
        for event in shown.trace:
            if event["name"].startswith("stage "):
                stage = " ".join(event["name"].split(",")[0].split(" ")[:2])
                spent[stage] += event["dur"] / 1e6
        for row in pipeline["stages"]:
            one_s = (row["forward_s"] + row["input_gradient_s"] +
                     row["weight_gradient_s"])
            _check_same(spent[f"stage {row['stage']}"],
                        one_s * pipeline["microbatches"])

    @_of()
    def test_memory(self, shown: _Shown) -> None:
        memory, pipeline = shown.report["memory"], shown.report["pipeline"]
        chart = shown.page.chart("memory by kind")
        ranks = {
            "every rank": (memory["total_bytes"], memory["by_kind"])
        } if pipeline is None else {
            f"{pipeline['axis']} rank {r['rank']}":
            (r["memory_bytes"], r["by_kind"])
            for r in pipeline["ranks"]
        }
        self.assertCountEqual(chart.labels, [
            f"{rank}, {kind}: {format_bytes(size)}"
            for rank, (_, by_kind) in ranks.items()
            for kind, size in by_kind.items() if size
        ])
        for rank, (total, by_kind) in ranks.items():
            at = chart.texts.index(rank)
            self.assertEqual(chart.texts[at + 1], format_bytes(total))
            self.assertGreaterEqual(sum(by_kind.values()), total)
            self.assertLessEqual(total, memory["total_bytes"])
        self.assertEqual(memory["total_bytes"],
                         max(total for total, _ in ranks.values()))
        limit = format_bytes(memory["limit_bytes"])
        line = chart.line(f"limit {limit}")
        assert line is not None
        self.assertAlmostEqual(float(line.attributes["x1"]),
                               chart.across(memory["limit_bytes"]),
                               delta=1.0)

    @_of()
    def test_communication_by_axis(self, shown: _Shown) -> None:
        section = shown.page.section("communication")
        axes = shown.report["axes"]
        self.assertEqual(section.table("mesh axes, of one rank in a step"),
                         [{
                             "axis": a["axis"],
                             "size": str(a["size"]),
                             "use": a["use"],
                             "link": a["tier"],
                             "bytes": format_bytes(a["bytes"]),
                             "time": format_time(a["time_s"]),
                             "exposed": format_time(a["exposed_s"]),
                             "repeated work": format_time(a["repeated_s"])
                         } for a in axes])
        places = shown.report["communication"]
        for axis in axes:
            own = [p for p in places if p["axis"] == axis["axis"]]
            for key in ("time_s", "exposed_s"):
                _check_same(sum(p[key] for p in own), axis[key])
            waited_s = sum(e["exposed_s"] for e in shown.report["exposed"]
                           if e["axis"] == axis["axis"])
            _check_same(waited_s, axis["exposed_s"])
            moved = sum(c["bytes"] * c["count"]
                        for c in _collectives(shown.report)
                        if c["axis"] == axis["axis"])
            if axis["use"] != "pipeline":
                self.assertAlmostEqual(moved, axis["bytes"], delta=1.0)
        for total, key in (("communication_s", "time_s"), ("exposed_s",
                                                           "exposed_s")):
            _check_same(sum(a[key] for a in axes), shown.report["time"][total])

    @_of()
    def test_communication_by_place(self, shown: _Shown) -> None:
        chart = shown.page.chart("communication by place and axis")
        places = shown.report["communication"]
        self.assertCountEqual(chart.labels, [
            f"{p['where']}, over {p['axis']}: {format_time(p['time_s'])}"
            for p in places if p["time_s"]
        ])
        for where in {p["where"] for p in places}:
            total_s = sum(p["time_s"] for p in places if p["where"] == where)
            at = chart.texts.index(where)
            self.assertEqual(chart.texts[at + 1], format_time(total_s))

    @_of()
    def test_collectives(self, shown: _Shown) -> None:
        blocks = {
            b["class"]: b["collectives"]
            for b in shown.report["blocks"]
        } | {
            "between blocks": shown.report["between_blocks"]
        }
        for name, rows in blocks.items():
            if rows:
                caption = f"collectives of {name}"
                self.assertEqual(shown.page.table(caption),
                                 [{
                                     "conversion of": r["value"],
                                     "collective": r["kind"],
                                     "axis": r["axis"],
                                     "pass": r["direction"],
                                     "bytes": format_bytes(r["bytes"]),
                                     "time alone": format_time(r["time_s"]),
                                     "runs": format_number(r["count"])
                                 } for r in rows])
                self.assertEqual(shown.page.sorted_by(caption, "time alone"),
                                 [float(f"{r['time_s']:.9g}") for r in rows])

    @_of()
    def test_search_space(self, shown: _Shown) -> None:
        report = shown.report
        chart = shown.page.chart("every candidate, time against memory")
        chosen, *rest = report["candidates"]
        self.assertEqual(chosen["plan"], report["plan"])
        self.assertEqual(chosen["step_s"], report["time"]["step_s"])
        self.assertEqual(chosen["memory_bytes"],
                         report["memory"]["total_bytes"])
        priced = chart.marks[len(report["scored"]):][::-1]
        for number, (candidate, mark) in enumerate(
                zip((chosen, *rest), priced, strict=True)):
            fits = "" if candidate["fits"] else ", does not fit"
            self.assertEqual(
                mark.label, ("" if number else "chosen: ") +
                f"{candidate['plan']}: {format_time(candidate['step_s'])}, "
                f"{format_bytes(candidate['memory_bytes'])}{fits}")
            if candidate["step_s"] < 3 * chosen["step_s"]:
                self.assertAlmostEqual(mark.center[0],
                                       chart.across(candidate["step_s"]),
                                       delta=1.5)
                self.assertAlmostEqual(mark.center[1],
                                       chart.upwards(
                                           candidate["memory_bytes"]),
                                       delta=4.0)
        for scored, mark in zip(report["scored"], chart.marks):
            self.assertIn(
                f"at least {format_time(scored['least_step_s'])}, "
                f"{format_bytes(scored['memory_bytes'])}", mark.label)
        line = chart.line("bound")
        assert line is not None
        self.assertAlmostEqual(float(line.attributes["x1"]),
                               chart.across(report["time"]["bound_s"]),
                               delta=1.5)

    @_of()
    def test_alternatives(self, shown: _Shown) -> None:
        rows = shown.report["alternatives"]
        self.assertTrue(rows)
        table = shown.page.table("alternatives")
        for row, cells in zip(rows, table, strict=True):
            self.assertEqual(
                [cells[n] for n in ("plan", "step", "memory", "fits")], [
                    row["plan"],
                    format_time(row["step_s"]),
                    format_bytes(row["memory_bytes"]),
                    "yes" if row["fits"] else "no"
                ])
            _check_same(sum(row["delta_s"].values()),
                        row["step_s"] - shown.report["time"]["step_s"])
            for cause in cells["why not"].split(", "):
                if cause.endswith(" too much memory"):
                    size = format_bytes(row["memory_excess_bytes"])
                    self.assertEqual(cause, f"{size} too much memory")
                    continue
                match = re.fullmatch(r"(.+) ([+-])(\S+ \S+)", cause)
                assert match is not None, cause
                seconds = row["delta_s"][match[1]]
                self.assertEqual(
                    (match[2], match[3]),
                    ("+" if seconds > 0 else "-", format_time(abs(seconds))))
        self.assertEqual(shown.page.sorted_by("alternatives", "step"),
                         [float(f"{r['step_s']:.9g}") for r in rows])

    @_of()
    def test_outlook(self, shown: _Shown) -> None:
        report = shown.report
        lists = shown.page.section("limits").lists()
        self.assertIn(report["binding"]["reason"], lists["Held back by"][0])
        self.assertEqual(lists.get("Constraints", []), [
            f"{c['constraint']} costs {format_time(c['costs_s'])} a "
            "step" for c in report["constraints"]
        ])
        step_s = report["time"]["step_s"]
        told = lists["What would change"]
        for row in report["sensitivity"]:
            difference_s = row["step_s"] - step_s
            text = "as long" if abs(difference_s) < 1e-12 else (
                f"{format_time(abs(difference_s))} "
                f"{'longer' if difference_s > 0 else 'shorter'}")
            self.assertIn(
                f"{row['change']}: {text}, "
                f"{format_bytes(row['memory_bytes'])}", told)
        best = [t for t in told if t.startswith("best then: ")]
        self.assertLessEqual(
            set(best), {
                f"best then: {r['best_plan']}, {format_time(r['best_step_s'])}"
                for r in report["sensitivity"]
            })
        self.assertEqual(lists.get("Repeated work", []), [
            f"{r['block']}: every rank of {r['axis']} repeats "
            f"{r['call']}, which costs {format_time(r['costs_s'])}"
            for r in report["repeated_work"]
        ])

    @_of()
    def test_plan(self, shown: _Shown) -> None:
        text = shown.page.section("plan").one("pre").text
        said = Plan.from_yaml(text).prediction
        time = shown.report["time"]
        for name, value in (("step_time_s", time["step_s"]),
                            ("optimizer_s", time["optimizer_s"]),
                            ("recompute_s", time["recompute_s"]),
                            ("memory_bytes",
                             shown.report["memory"]["total_bytes"])):
            _check_same(said[name], value)

    @_of("devices")
    def test_devices(self, shown: _Shown) -> None:
        fit = shown.report["fit"]
        rows = [r for r in fit["tried"] if r["plan"] is not None]
        table = shown.page.table("numbers of devices")
        for row, cells in zip(rows, table, strict=True):
            self.assertEqual(cells["devices"], str(row["devices"]))
            self.assertEqual(cells["step"], format_time(row["step_s"]))
            self.assertEqual(cells["memory"],
                             format_bytes(row["memory_bytes"]))
            self.assertEqual(cells["plan"], row["plan"])
            self.assertEqual(cells["price of a step"],
                             format_number(row["price_per_step"]))
            _check_same(row["price_per_step"],
                        2 * row["devices"] * row["step_s"] / 3600)
        (own, ) = (r for r in rows if r["devices"] == fit["devices"])
        self.assertEqual(own["step_s"], shown.report["time"]["step_s"])
        self.assertEqual(own["rate"], shown.report["work"]["rate"])


def _check_same(first: float, second: float) -> None:
    """Equal but for the order of sums."""
    if not math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12):
        raise AssertionError(f"{first!r} is not {second!r}")


def _collectives(report: dict[str, Any]) -> list[dict[str, Any]]:
    """All that runs in a step, by itself."""
    found = list(report["between_blocks"])
    for block in report["blocks"]:
        found += block["collectives"]
    return found
