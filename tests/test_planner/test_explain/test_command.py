"""The command: every example of its page runs, mistakes are told."""

from __future__ import annotations

import contextlib
import html
import io
import json
import math
import os
import re
import shlex
import tempfile
from pathlib import Path
from unittest import TestCase

from planner.explain.__main__ import main
from planner.explain.arguments import (parse_arguments, parse_constraint,
                                       parse_mesh)
from planner.ir.plan import Plan

_PAGE = Path(__file__).parents[3] / "doc" / "explain.md"


def _blocks(language: str) -> list[str]:
    text = _PAGE.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def _run(*argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return code, out.getvalue(), err.getvalue()


class _InFolder(TestCase):
    """With the page's model.py and config.json in the working folder."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(folder.name)
        Path("model.py").write_text(_blocks("python")[0], encoding="utf-8")
        Path("config.json").write_text(_blocks("json")[0], encoding="utf-8")


class TestPage(_InFolder):

    def test_commands(self) -> None:
        for line in _blocks("bash")[0].splitlines():
            argv = shlex.split(line)
            self.assertEqual(argv[:3], ["python", "-m", "planner.explain"])
            with self.subTest(line):
                code, out, err = _run(*argv[3:])
                self.assertEqual((code, err), (0, ""))
                if "--json" not in argv and "--compare" not in argv:
                    self.assertLessEqual(max(map(len, out.splitlines())), 100)
        self.assertEqual(Plan.load("first.yaml").mesh.sizes, (2, 4))

    def test_files(self) -> None:
        _run(*"model.py --mesh 2x4 --html a.html --trace a.json --dot a.dot".
             split())
        self.assertIn("</html>", Path("a.html").read_text(encoding="utf-8"))
        trace = json.loads(Path("a.json").read_text(encoding="utf-8"))
        self.assertTrue(trace["traceEvents"])
        self.assertRegex(
            Path("a.dot").read_text(encoding="utf-8"), r"^digraph")


class TestResults(_InFolder):

    def test_plan_is_explained_as_it_is(self) -> None:
        _run("model.py", "--mesh", "2x4", "--save", "plan.yaml")
        code, out, _ = _run("model.py", "--plan", "plan.yaml", "--json")
        report, plan = json.loads(out), Plan.load("plan.yaml")
        self.assertEqual(code, 0)
        self.assertEqual(report["mesh"], {"dp": 2, "tp": 4})
        self.assertAlmostEqual(report["time"]["step_s"],
                               plan.prediction["step_time_s"],
                               delta=1e-12)

    def test_plan_is_under_the_certificate_of_the_search(self) -> None:
        for mesh in ("dp=2,tp=2", "pp=2,dp=2"):
            _, out, _ = _run("model.py", "--mesh", mesh, "--json", "--save",
                             "plan.yaml")
            searched = json.loads(out)
            report = json.loads(
                _run("model.py", "--plan", "plan.yaml", "--json")[1])
            for key in ("value", "bound", "gap"):
                self.assertAlmostEqual(report["solution"][key],
                                       searched["solution"][key])
            self.assertEqual(report["time"]["bound_overlaps"],
                             searched["time"]["bound_overlaps"])
            self.assertAlmostEqual(report["time"]["gap"],
                                   report["solution"]["gap"])
            self.assertNotIn(report["plan"],
                             [a["plan"] for a in report["alternatives"]])

    def test_all_devices_that_are_given(self) -> None:
        for cluster, devices in (("h100-sxm", 8), ("h100-sxm:2x2", 4)):
            _, out, _ = _run("model.py", "--cluster", cluster, "--json")
            mesh = json.loads(out)["mesh"]
            self.assertEqual(math.prod(mesh.values()), devices)

    def test_all_devices_of_several_kinds(self) -> None:
        kind = {
            "memory_bytes": 1e9,
            "memory_bandwidth_bytes_per_s": 1e12,
            "peak_flops_per_s": {
                "float32": 1e13
            },
            "launch_overhead_s": 1e-6
        }
        link = {"latency_s": 1e-6, "bandwidth_bytes_per_s": 1e10}
        quick, slow = ({"name": n, **kind} for n in ("quick", "slow"))
        slow["peak_flops_per_s"] = {"float32": 5e12}
        Path("two.yaml").write_text(json.dumps({
            "name":
            "two",
            "device":
            quick,
            "tiers": [{
                "name": "node",
                "size": 1,
                "link": link
            }, {
                "name": "fabric",
                "size": 2,
                "link": link
            }],
            "others": [{
                "num_nodes": 1,
                "device": slow
            }]
        }),
                                    encoding="utf-8")
        _, out, _ = _run("model.py", "--cluster", "two.yaml", "--json")
        self.assertEqual([d["device"] for d in json.loads(out)["devices"]],
                         ["quick", "slow"])
        for option, text in (("--mesh=4",
                              "two.yaml has 2 devices and the mesh"),
                             ("--fit", "lists its nodes one by one")):
            code, _, err = _run("model.py", "--cluster", "two.yaml", option)
            self.assertEqual(code, 2)
            self.assertIn(text, err)

    def test_output_is_stable(self) -> None:
        first, second = (_run("model.py", "--mesh", "2x4") for _ in "ab")
        self.assertEqual(first, second)

    def test_constraint_is_priced(self) -> None:
        _, out, _ = _run("model.py", "--mesh", "dp=4", "--json",
                         "--constraint", "pin('*.up.weight', dp=S(1))",
                         "--constraint", "limit(dp=4)")
        items = json.loads(out)["constraints"]
        self.assertEqual([i["constraint"] for i in items],
                         ["pin('*.up.weight', dp=S(1))", "limit(dp=4)"])
        self.assertEqual(items[1]["costs_s"], 0.0)

    def test_constraints_do_not_cost_what_a_given_plan_does(self) -> None:
        mesh = ("--mesh", "dp=4", "--constraint", "forbid('ddp')")
        code, *_ = _run("model.py", *mesh, "--constraint", "pin('*', dp=S(0))",
                        "--save", "slow.yaml")
        self.assertEqual(code, 0)
        _, out, _ = _run("model.py", "--plan", "slow.yaml", "--constraint",
                         "forbid('zero1')", "--json")
        report = json.loads(out)
        quickest_s = min(c["step_s"] for c in report["candidates"])
        self.assertGreater(report["time"]["step_s"], quickest_s)
        (row, ) = report["constraints"]
        self.assertEqual((row["costs_s"], row["step_s_without"]),
                         (0.0, quickest_s))

    def test_constraints_that_a_given_plan_breaks(self) -> None:
        _run("model.py", "--mesh", "2x4", "--save", "plan.yaml")
        self.assertEqual(Plan.load("plan.yaml").axes["dp"], "ddp")
        broken = {
            "forbid('ddp')":
            "ddp is used over dp",
            "limit(tp=2)":
            "tp has 4 ranks",
            "pin('*.up.weight', tp=S(1))":
            "0.up.weight, 1.up.weight, 2.up.weight and 1 more lie as S(0) "
            "over tp"
        }
        asked = [f"--constraint={c}" for c in (*broken, "limit(tp=4)")]
        code, out, _ = _run("model.py", "--plan", "plan.yaml", "--json",
                            *asked)
        report = json.loads(out)
        self.assertEqual(code, 0)
        self.assertEqual({b["constraint"]: b["how"]
                          for b in report["broken"]}, broken)
        _, text, _ = _run("model.py", "--plan", "plan.yaml", "--html",
                          "plan.html", *asked)
        page = html.unescape(Path("plan.html").read_text(encoding="utf-8"))
        words = " ".join(text.split())
        for constraint, how in broken.items():
            self.assertIn(f"{constraint}: {how}", words)
            self.assertIn(f"{constraint}: {how}", page)

    def test_a_plan_is_explained_where_constraints_leave_no_other(
            self) -> None:
        _run("model.py", "--mesh", "2x4", "--save", "plan.yaml")
        for constraints in (["limit(tp=2)"], [
                "pin('*.up.weight', tp=S(0))", "pin('*.up.weight', tp=S(1))"
        ]):
            _, out, _ = _run("model.py", "--plan", "plan.yaml", "--json",
                             *(f"--constraint={c}" for c in constraints))
            report = json.loads(out)
            self.assertEqual(report["considered"], 1)
            self.assertEqual([b["constraint"] for b in report["broken"]],
                             constraints[-1:])
            self.assertAlmostEqual(report["solution"]["gap"],
                                   report["time"]["gap"])
            self.assertGreater(report["time"]["gap"], 0)

    def test_what_a_given_plan_breaks_does_not_price_constraints(self) -> None:
        """A quicker plan that breaks one does not make the others free."""
        _run("model.py", "--mesh", "dp=4", "--save", "quick.yaml")
        (name, ) = Plan.load("quick.yaml").axes.values()
        _, out, _ = _run("model.py", "--plan", "quick.yaml", "--json",
                         f"--constraint=forbid('{name}')",
                         "--constraint=pin('*', dp=S(0))")
        report = json.loads(out)
        kept = [c["step_s"] for c in report["candidates"][1:]]
        for row in report["constraints"]:
            self.assertAlmostEqual(row["costs_s"],
                                   max(0.0,
                                       min(kept) - row["step_s_without"]))
        self.assertGreater(max(r["costs_s"] for r in report["constraints"]), 0)
        self.assertNotEqual(report["binding"]["kind"], "constraint")

    def test_a_plan_that_is_found_breaks_nothing(self) -> None:
        asked = ("--constraint=forbid('ddp')",
                 "--constraint=pin('*.up.weight', tp=S(0))", "--json")
        for argv in (("config.json", "--fit", "--batch=8", "--seq=128",
                      "--constraint=forbid('fsdp')",
                      "--constraint=limit(dp=1)", "--json"),
                     ("model.py", "--mesh=2x2",
                      *asked), ("model.py", "--mesh=pp=2,dp=2",
                                "--constraint=forbid('fsdp')", "--json")):
            with self.subTest(argv):
                report = json.loads(_run(*argv)[1])
                self.assertEqual(report["broken"], [])

    def test_comparison_says_what_each_breaks(self) -> None:
        _run("model.py", "--mesh", "dp=2", "--save", "a.yaml")
        _run("model.py", "--mesh", "dp=4", "--save", "b.yaml")
        argv = ("model.py", "--compare", "a.yaml", "b.yaml",
                "--constraint=limit(dp=2)")
        plans = json.loads(_run(*argv, "--json")[1])["plans"]
        self.assertEqual(
            [p["broken"] for p in plans],
            [[], [{
                "constraint": "limit(dp=2)",
                "how": "dp has 4 ranks"
            }]])
        self.assertIn(
            "\n  the plan breaks constraints, and is priced as it is\n"
            "    limit(dp=2): dp has 4 ranks\n",
            _run(*argv)[1])
        code, _, err = _run(*argv, "--constraint=limit(cp=2)")
        self.assertEqual(code, 2)
        self.assertIn("names axis 'cp'", err)

    def test_a_batch_that_does_not_divide(self) -> None:
        argv = ("config.json", "--batch", "4", "--seq", "32", "--mesh", "dp=3")
        told = json.loads(_run(*argv, "--json")[1])["uneven"]
        self.assertRegex(
            told[0],
            r"divides dim 0 of the inputs, but none divides over dp=3 "
            r"\(.*\(4, 32\).*\): every rank of the axis computes the same")
        text = _run(*argv)[1]
        self.assertIn("not offered, since uneven\n", text)
        self.assertLessEqual(max(map(len, text.splitlines())), 100)

    def test_differences_of_other_ways_add_up(self) -> None:
        for mesh in ("4", "pp=2,dp=2"):
            report = json.loads(_run("model.py", "--mesh", mesh, "--json")[1])
            self.assertGreater(len(report["alternatives"]), 2)
            for other in report["alternatives"]:
                self.assertAlmostEqual(sum(other["delta_s"].values()),
                                       other["step_s"] -
                                       report["time"]["step_s"],
                                       delta=1e-12)

    def test_times_add_up(self) -> None:
        time = json.loads(_run("model.py", "--mesh", "2x4",
                               "--json")[1])["time"]
        parts = ("forward_s", "backward_s", "recompute_s", "local_s",
                 "exposed_s", "straggling_s", "interference_s", "host_s",
                 "around_s", "optimizer_s")
        self.assertAlmostEqual(sum(time[p] for p in parts), time["step_s"])


class TestConfigs(_InFolder):

    def test_attention_of_its_own(self) -> None:
        """Bloom's has no fused kernel."""
        Path("bloom.json").write_text(json.dumps({
            "architectures": ["BloomForCausalLM"],
            "model_type":
            "bloom",
            "hidden_size":
            32,
            "n_layer":
            2,
            "n_head":
            4,
            "vocab_size":
            64
        }),
                                      encoding="utf-8")
        code, out, _ = _run(
            *"bloom.json --mesh dp=2 --batch 4 --seq 16".split())
        self.assertEqual(code, 0)
        self.assertIn("BloomBlock x 2", out)


class TestMistakes(_InFolder):

    def test_texts(self) -> None:
        Path("empty.py").write_text("", encoding="utf-8")
        Path("bare.json").write_text("{}", encoding="utf-8")
        Path("raises.py").write_text(
            "import math\n\ndef get_model():\n    math.sqrt(-1)\n",
            encoding="utf-8")
        Path("open.py").write_text("x = (\n", encoding="utf-8")
        Path("short.json").write_text(json.dumps({
            "architectures": ["BertForMaskedLM"],
            "model_type":
            "bert",
            "hidden_size":
            16,
            "num_hidden_layers":
            1,
            "num_attention_heads":
            2,
            "intermediate_size":
            32,
            "vocab_size":
            64,
            "max_position_embeddings":
            32
        }),
                                      encoding="utf-8")
        cases = ((("none.py", ), "there is no file 'none.py'"),
                 (("empty.py", ),
                  "has neither get_model"), (("bare.json", ),
                                             "has no model_type"),
                 (("short.json", "--seq", "64"),
                  "longer than the 32 positions of bert"),
                 (("model.py", "--mesh", "2y2"), "--mesh '2y2' is no mesh"),
                 (("model.py", "--cluster", "h100"),
                  "did you mean h100-sxm"), (("model.py", "--plan", "x.yaml"),
                                             "there is no plan 'x.yaml'"),
                 (("model.py", "--mesh", "16", "--cluster", "h100-sxm:8"),
                  "has 8 devices and the mesh 16"), (("model.py", "--fit",
                                                      "--mesh", "8"),
                                                     "leave out --mesh"),
                 (("model.py", "--global-batch", "9:3"),
                  "'9:3' is no range"), (("model.py", "--global-batch", "4:8",
                                          "--objective", "step-time"),
                                         "leave out --plan and --objective"),
                 (("model.py", "--constraint", "print(1)"),
                  "is no constraint"),
                 (("model.py", "--constraint", "forbid('nothing')"),
                  "names no recipe"), (("model.py", "--mesh", "0"),
                                       "--mesh '0' is no mesh"),
                 (("raises.py", ),
                  "'raises.py', line 4, raises ValueError: math"),
                 (("open.py", ), "raises SyntaxError"))
        for argv, text in cases:
            with self.subTest(argv):
                code, out, err = _run(*argv)
                self.assertEqual((code, out), (2, ""))
                self.assertIn(text, err)

    def test_what_would_do_nothing(self) -> None:
        cases = (("model.py --batch 3", "'model.py' brings its model"),
                 ("model.py --dtype bfloat16",
                  "leave out --dtype"), ("config.json --seq 0",
                                         "--seq 0: give at least 1"),
                 ("config.json --global-batch 4:8 --batch 4",
                  "leave out --batch"),
                 ("model.py --memory-limit-gib inf",
                  "--memory-limit-gib inf: give more than 0 (at least a byte"),
                 ("model.py --memory-limit-gib 1e-10", "at least a byte"),
                 ("model.py --fit --price-per-device-hour inf",
                  "--price-per-device-hour inf: give more than 0"),
                 ("model.py --fit --objective throughput",
                  "fewest devices: leave out --objective throughput"),
                 ("model.py --html a --save a",
                  "--save a: what --html writes is in that file"),
                 ("model.py --dot model.py",
                  "--dot model.py: the model is in that file; name another"),
                 ("model.py --memory-limit-gib 0",
                  "--memory-limit-gib 0: give more than 0"),
                 ("model.py --time-limit-s -1",
                  "give at least 0"), ("model.py --top -1",
                                       "--top -1: give at least 0"),
                 ("model.py --fit --price-per-device-hour 0",
                  "--price-per-device-hour 0: give more than 0"),
                 ("model.py --price-per-device-hour 2",
                  "only what --fit finds"), ("model.py --plan a.yaml --mesh 8",
                                             "leave out --mesh"),
                 ("model.py --compare a.yaml b.yaml --save c.yaml",
                  "leave out --save"), ("model.py --html no/such.html",
                                        "there is no folder 'no'"),
                 ("model.py --save .", "this is a folder"))
        for line, text in cases:
            with self.subTest(line):
                code, out, err = _run(*line.split())
                self.assertEqual((code, out), (2, ""))
                self.assertIn(text, err)

    def test_a_config_whose_model_takes_other_inputs(self) -> None:
        config = {
            "architectures": ["SpeechT5ForTextToSpeech"],
            "model_type": "speecht5",
            "hidden_size": 24,
            "encoder_layers": 1,
            "decoder_layers": 1
        }
        Path("speech.json").write_text(json.dumps(config), encoding="utf-8")
        code, _, err = _run("speech.json", "--seq", "8")
        self.assertEqual(code, 2)
        self.assertIn(
            "for a config the model is called with input_ids and labels", err)


class TestParsing(TestCase):

    def test_objective_of_fewest_devices(self) -> None:
        self.assertTrue(
            parse_arguments(["model.py", "--objective", "devices"]).fit)
        self.assertFalse(
            parse_arguments(["model.py", "--objective", "throughput"]).fit)

    def test_meshes(self) -> None:
        for text, meshes in (("2x4", ["dp=2 x tp=4"
                                      ]), ("2x2x2", ["dp=2 x cp=2 x tp=2"]),
                             ("x=2, y=3", ["x=2 x y=3"])):
            self.assertEqual([str(m) for m in parse_mesh(text)], meshes)
        for text in ("2x2x2x2", "0x2", "dp=a", "dp=2,dp=2", ""):
            with self.assertRaisesRegex(ValueError, "is no mesh"):
                parse_mesh(text)

    def test_misspelt_axes(self) -> None:
        for text, hint in (("dpp=2,tp=2", "'dpp' .* did you mean .*dp"),
                           ("DP=2", "'DP' .* did you mean .*dp")):
            with self.assertWarnsRegex(UserWarning, hint):
                parse_mesh(text)

    def test_constraints(self) -> None:
        for text, printed in (("pin('*.weight', tp=Shard(1))",
                               "pin('*.weight', tp=S(1))"), ("pin('*', tp=R)",
                                                             "pin('*', tp=R)"),
                              ("forbid('ddp')",
                               "forbid('ddp')"), ("forbid('*', dp='S(0)')",
                                                  "forbid('*', dp=S(0))")):
            self.assertEqual(str(parse_constraint(text)), printed)

    def test_nothing_is_evaluated(self) -> None:
        for text in ("pin(__import__('os').getcwd(), tp=R)", "limit(tp=1+f())",
                     "pin('a', tp=S(x))", "a.pin('b')", "pin(", "pin()"):
            with self.assertRaisesRegex(ValueError, "is no constraint"):
                parse_constraint(text)
