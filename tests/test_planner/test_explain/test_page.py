"""The page stands alone, says everything, and escapes what it says."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import TestCase, skipIf

import torch
from torch import nn

from planner.batches import best_batch, search_batches
from planner.capture.capture import capture
from planner.explain.batches import batches_report
from planner.explain.fit import fit_report
from planner.explain.page.build import PageContent, build_page
from planner.explain.page.marks import color_of
from planner.explain.page.markup import Markup, element, join
from planner.explain.page.scale import Scale, scale_of
from planner.explain.page.tree import module_tree
from planner.fit import fewest_devices
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from tests.test_planner.test_explain.pages import (GRID, Reader, content_of,
                                                   piped, plain)
from tests.test_planner.test_planning.programs import rows_of_mlp, slow_cluster

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_BROWSER = next(filter(None, map(shutil.which, _BROWSERS)), None)
_NODE = shutil.which("node")
_SECTIONS = ("step", "memory", "communication", "search", "limits", "model",
             "plan")
_EVIL = "<img src=x onerror=alert(1)>&\"'</script>"


class TestPage(TestCase):

    def test_has_every_section(self) -> None:
        for found in (plain(), piped()):
            content = content_of(*found)
            reader = Reader(build_page(content))
            self.assertEqual(reader.open, [])
            ids = [a["id"] for a in reader.of("section")]
            self.assertEqual(tuple(ids), _SECTIONS)
            links = [a["href"] for a in reader.of("a")][1:]
            self.assertEqual(links, [f"#{i}" for i in ids])
            text = "".join(reader.text)
            self.assertIn(content.plan, text)
            self.assertIn(content.report["plan"], text)
            for other in content.report["alternatives"]:
                self.assertIn(other["plan"], text)

    def test_has_messages_between_stages(self) -> None:
        for found, has in ((plain(), False), (piped(), True)):
            text = build_page(content_of(*found))
            self.assertEqual("over pp" in text, has)
            self.assertEqual("between stages" in text, has)

    def test_kinds_of_work_have_colors_of_their_own(self) -> None:
        """As far as they are in one chart, of a step with stages."""
        kinds = ("forward", "input gradient", "weight gradient", "message",
                 "once a step", "optimizer", "waiting")
        self.assertEqual(len({color_of(k) for k in kinds}), len(kinds))

    def test_has_what_was_asked_for(self) -> None:
        content = content_of(*plain())
        batches = search_batches(range(4, 9), rows_of_mlp, [GRID])
        report = {
            **content.report,
            "batches":
            batches_report(batches, best_batch(batches)),
            "fit":
            fit_report(
                fewest_devices(plain()[0].copied(memory_limit_bytes=900),
                               most=4)),
        }
        page = build_page(dataclasses.replace(content, report=report))
        ids = [a["id"] for a in Reader(page).of("section")]
        self.assertEqual(tuple(ids), ("devices", "batch", *_SECTIONS))

    def test_needs_nothing_else(self) -> None:
        page = build_page(content_of(*piped()))
        self.assertNotIn("http", page)
        self.assertNotIn("@import", page)
        self.assertNotRegex(page, r"url\(")
        reader = Reader(page)
        self.assertEqual(reader.of("link") + reader.of("img"), [])
        self.assertTrue(all("src" not in a for _, a in reader.tags))

    def test_charts_have_names_and_one_stop_each(self) -> None:
        reader = Reader(build_page(content_of(*piped())))
        charts = reader.of("svg")
        self.assertEqual(len(charts), 5)
        self.assertTrue(all(a["aria-label"] for a in charts))
        marks = [a for _, a in reader.tags if a.get("role") == "listitem"]
        self.assertTrue(all(a["aria-label"] for a in marks))
        self.assertEqual(sum(a["tabindex"] == "0" for a in marks), 5)

    def test_search_space_has_every_candidate(self) -> None:
        planning, chosen, found = plain()
        reader = Reader(build_page(content_of(planning, chosen, found)))
        dots = [a for a in reader.of("circle")]
        diamonds = [a for a in reader.of("path")]
        self.assertEqual((len(dots), len(diamonds)), (len(found) - 1, 1))
        self.assertIn(f"chosen: {chosen.name}", diamonds[0]["aria-label"]
                      or "")

    def test_search_space_has_what_was_scored(self) -> None:
        planning, chosen, found = plain()
        content = content_of(planning, chosen, found)
        split = {
            "mesh": {
                "pp": 1,
                "dp": 8,
                "tp": 4
            },
            "least_step_s": 40 * chosen.time_s,
            "memory_bytes": 3e9,
            "fits": False
        }
        report = {**content.report, "scored": [split]}
        reader = Reader(build_page(dataclasses.replace(content,
                                                       report=report)))
        labels = [a["aria-label"] or "" for a in reader.of("circle")]
        self.assertEqual(len(labels), len(found))
        self.assertTrue(labels[0].startswith("dp=8 x tp=4, not priced: "))
        self.assertTrue(labels[0].endswith("2.794 GiB, does not fit"))

    def test_columns_sort_by_numbers(self) -> None:
        content = content_of(*plain())
        reader = Reader(build_page(content))
        values = [
            float(a["data-value"] or "") for a in reader.of("td")
            if "data-value" in a
        ]
        for other in content.report["alternatives"]:
            self.assertIn(float(f"{other['step_s']:.9g}"), values)
        self.assertTrue(reader.of("button"))

    def test_too_much_memory(self) -> None:
        planning, chosen, found = plain()
        tight = planning.copied(memory_limit_bytes=600)
        text = "".join(
            Reader(build_page(content_of(tight, chosen, found))).text)
        self.assertIn("of 600 B, does not fit", text)


class TestNames(TestCase):

    def test_are_escaped(self) -> None:
        content = content_of(*plain())
        report = _with_evil_names(dict(content.report))
        rows = [{
            **r, "name": f"{_EVIL}.{r['name']}"
        } for r in content.parameters]
        spans = tuple(
            dataclasses.replace(s, name=_EVIL, label=_EVIL)
            for s in content.timeline.spans)
        page = build_page(
            PageContent(report=report,
                        timeline=dataclasses.replace(content.timeline,
                                                     spans=spans),
                        parameters=rows,
                        plan=_EVIL))
        reader = Reader(page)
        self.assertEqual(reader.of("img"), [])
        self.assertEqual(len(reader.of("script")), 1)
        self.assertFalse(any("onerror" in a for _, a in reader.tags))
        self.assertNotIn("<img", page)
        self.assertGreater("".join(reader.text).count(_EVIL), 10)

    def test_of_a_model_are_escaped(self) -> None:
        model = nn.Sequential()
        model.add_module("<img src=x>&amp", nn.Linear(4, 4))
        model.__class__ = type("<script>", (nn.Sequential, ), {})
        program = capture(model, (torch.zeros(4, 4), torch.zeros(4, 4)),
                          loss_fn=nn.functional.mse_loss)
        planning = Planning(program, slow_cluster(2, 1e8))
        found = planning.candidates([MeshSpec(("dp", ), (2, ))])
        reader = Reader(build_page(content_of(planning, found[0], found)))
        self.assertEqual(reader.of("img"), [])
        self.assertEqual(len(reader.of("script")), 1)
        self.assertIn("<img src=x>&amp", "".join(reader.text))


def _with_evil_names(data: object) -> object:
    """Every text of a report but what links and colors hang on."""
    if isinstance(data, dict):
        return {
            k: v if k in ("by_kind", "kind") else _with_evil_names(v)
            for k, v in data.items()
        }
    if isinstance(data, list):
        return [_with_evil_names(v) for v in data]
    return _EVIL if isinstance(data, str) else data


class TestMarkup(TestCase):

    def test_elements(self) -> None:
        self.assertEqual(
            element("p", {"class": None}, "a<b", Markup("<hr>"), ["&"]),
            "<p>a&lt;b<hr>&amp;</p>")
        self.assertEqual(element("meta", {"x": 0.5}), '<meta x="0.5">')
        self.assertIsInstance(join("a"), Markup)


class TestScale(TestCase):

    def test_ticks_are_round(self) -> None:
        linear = Scale(low=0, high=10, start=0, end=100)
        self.assertEqual(linear.ticks(), [0, 2, 4, 6, 8, 10])
        self.assertEqual(linear(2.5), 25)
        self.assertEqual(linear(99), 100)
        bytes_ = Scale(low=0, high=2.0**30, start=0, end=1, base=2)
        self.assertEqual(bytes_.ticks(4)[1], 2.0**28)

    def test_wide_ranges_are_logarithmic(self) -> None:
        scale = scale_of([1e-3, 1.0], start=0, end=300)
        self.assertTrue(scale.log)
        self.assertTrue(all(0 <= scale(t) <= 300 for t in scale.ticks()))
        self.assertGreaterEqual(len(scale.ticks()), 3)
        same = scale_of([2.0, 2.0], start=0, end=1)
        self.assertFalse(same.log)

    def test_zeros(self) -> None:
        scale = scale_of([0.0], start=0, end=10)
        self.assertEqual(scale(0.0), 5)
        self.assertTrue(scale.ticks())


class TestTree(TestCase):

    def test_alike_neighbours_are_told_once(self) -> None:
        rows = [{
            "name": f"layers.{n}.up",
            "shape": [2, 2],
            "at_rest": "S(0)" if n < 3 else "R",
            "in_use": "R",
            "regathered": n == 0,
        } for n in range(5)]
        text = "".join(Reader(module_tree("Model", rows)).text)
        self.assertIn("0 to 2 (3 alike)", text)
        self.assertIn("3 to 4 (2 alike)", text)
        self.assertEqual(text.count("up"), 2)
        self.assertIn("at rest, R in use, gathered again", text)


@skipIf(_NODE is None, "there is no node, which checks the script")
class TestScript(TestCase):

    def test_is_correct(self) -> None:
        script = re.search(r"<script>(.*)</script>",
                           build_page(content_of(*plain())), re.DOTALL)
        assert script is not None and _NODE is not None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "page.js"
            path.write_text(script[1], encoding="utf-8")
            found = subprocess.run(
                [_NODE, "--check", str(path)], capture_output=True, text=True)
        self.assertEqual(found.returncode, 0, found.stderr)


_DRIVE = """
<script>
const seen = {};
const press = (mark, key) => mark.dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true}));
const marks = [...document.querySelectorAll("#search [role=listitem]")];
marks.find((m) => m.tabIndex === 0).focus();
press(document.activeElement, "Home");
seen.first = document.activeElement === marks[0];
press(document.activeElement, "End");
seen.last = document.activeElement === marks.at(-1);
seen.told = document.querySelector("#search .readout").textContent ===
  marks.at(-1).getAttribute("aria-label");
const table = document.querySelector("#search table.sortable");
const column = () => [...table.tBodies[0].rows].map(
  (r) => Number(r.cells[2].dataset.value));
const button = table.tHead.rows[0].cells[2].querySelector("button");
const isSorted = (v) => v.every((x, i) => !i || v[i - 1] <= x);
button.click();
seen.up = isSorted(column());
button.click();
seen.down = isSorted(column().reverse());
seen.narrow = document.documentElement.scrollWidth <= window.innerWidth;
document.body.textContent = JSON.stringify(seen);
</script>
"""


@skipIf(_BROWSER is None, "there is no Chromium, which shows the page")
class TestBrowser(TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def _shown(self, page: str, *options: str) -> str:
        assert _BROWSER is not None
        path = self.folder / "page.html"
        path.write_text(page, encoding="utf-8")
        profile = self.folder / "profile"
        done = subprocess.run([
            _BROWSER, "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={profile}", *options,
            path.as_uri()
        ],
                              capture_output=True,
                              text=True,
                              timeout=120,
                              check=True)
        return done.stdout

    def test_is_shown_and_printed(self) -> None:
        page = build_page(content_of(*piped()))
        shot, paper = self.folder / "page.png", self.folder / "page.pdf"
        self._shown(page, f"--screenshot={shot}", "--window-size=1280,2000")
        self.assertEqual(shot.read_bytes()[:4], b"\x89PNG")
        self._shown(page, f"--print-to-pdf={paper}")
        self.assertEqual(paper.read_bytes()[:5], b"%PDF-")

    def test_works_by_keyboard(self) -> None:
        page = build_page(content_of(*plain()))
        page = page.replace("</body>", f"{_DRIVE}</body>")
        for width in (1280, 500):
            found = self._shown(page, "--dump-dom",
                                f"--window-size={width},800")
            seen = json.loads(re.findall(r"\{.*?\}", found)[-1])
            self.assertEqual(
                seen,
                dict.fromkeys(
                    ("first", "last", "told", "up", "down", "narrow"), True))
