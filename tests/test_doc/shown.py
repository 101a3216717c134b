"""The commands that pages and examples show, and how tests run them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from tests.test_doc.pages import blocks, pages
from tests.tree import ROOT

__all__ = [
    "ELSEWHERE", "MEASURING", "commands", "files", "reason_not_to_run",
    "to_run"
]

Lines = dict[str, list[str]]

ADDED: Mapping[str, str] = {
    "scripts/train_gpt.sh":
    "--steps 2 --width 32 --depth 1",
    "scripts/test.sh":
    "tests/test_tree.py",
    "python run_tests.py":
    "tests/test_tree.py",
    "python run_tests.py -k":
    "tests/test_planner/test_cost/test_analytic",
    "python run_tests.py tests":
    "-k softmax",
    "python -m unittest discover":
    "-k test_tree",
    "python -m scripts.validate_cost_model":
    "--limit 20",
    "python -m scripts.search_published":
    "--limit 5",
    "-m planner.profile":
    "--budget-s 2",
    "python benchmarks/cost_accuracy.py":
    "--quick --cache quick",
    "python benchmarks/shaped_links.py":
    "--links 0:0 --rounds 1 --budget-s 2",
    "python -m scaletorch.train examples":
    "train.steps=6",
    "mpirun":
    "train.steps=6",
    "scripts/launch.sh":
    "train.steps=6",
    "scripts/launch_multinode.sh":
    "train.steps=6",
    "python -m scripts.convert_checkpoint":
    "--overrides width=64 depth=2 heads=4 kv_heads=2 hidden_width=128 "
    "vocabulary_size=128",
    "python -m scripts.sweep":
    "--steps 4",
    "python -m benchmarks.step_time":
    "--sizes tiny --recipes ddp --compile 0 --rounds 1",
    "python -m benchmarks.plan_time":
    "--case 'GPT-2 on 8'",
    "python -m benchmarks.search":
    "--repeats 1",
    "python -m benchmarks.ring_attention":
    "--contexts 256 --rounds 1",
    "python -m benchmarks.pipeline":
    "--ranks 2 --sizes tiny --schedules 1f1b --rounds 1",
    "python -m benchmarks.auto_vs_manual":
    "--ranks 2 --models gpt2 --rounds 1 --cluster cpu-gloo",
    "run 1 python -m benchmarks.auto_vs_manual":
    "--models t5 --rounds 1",
    "examples/by_recipe.py":
    "--steps 2",
    "examples/train_gpt.py":
    "--steps 2 --width 32 --depth 1",
    "examples/auto_or_manual.py":
    "--steps 1 --width 32 --depth 2",
    "examples/fine_tune.py":
    "--steps 2",
    "examples/long_context.py":
    "--steps 2 --context 256",
}
"""What makes a command small, by its beginning; the longest that fits."""

REPLACED: Mapping[str, str] = {
    "--nproc-per-node 8": "--nproc-per-node 2",
    "NODES=2 HOST=node0:29400": "NODES=1 RANKS=2 HOST=localhost:0",
}
"""What stands for a machine that the tests do not have."""

ELSEWHERE: Mapping[str, str] = {
    "git clone":
    "the tests run in what it makes",
    "python -m venv":
    "the tests run in what it makes",
    "pip install":
    "the tests run in what it makes",
    "sbatch":
    "needs SLURM; test_launch_scripts.py sees what it starts",
    "srun":
    "needs SLURM; test_environment.py has what it sets",
    "examples/imagenet.py DATA":
    "needs ImageNet; the next command is the "
    "same on pictures that it makes",
}
"""Commands that are not run, and why."""

MEASURING = ("doc/cost_model.md", "doc/extending.md", "doc/profile.md",
             "doc/usage.md")
"""Pages with commands that measure or fit, which have a module of their own:
a module's time is limited."""


def commands() -> Lines:
    """Commands of all bash blocks, by page, then those of the examples."""
    found = {
        str(page.relative_to(ROOT)):
        _lines("\n".join(blocks(page.read_text(encoding="utf-8"), "bash")))
        for page in pages()
    }
    for path in sorted((ROOT / "examples").glob("*.py")):
        lesson = ast.get_docstring(ast.parse(
            path.read_text(encoding="utf-8"))) or ""
        found[f"examples/{path.name}"] = [
            line for line in _lines(lesson)
            if "examples/" in line and line.startswith(("python ",
                                                        "torchrun "))
        ]
    return {name: lines for name, lines in found.items() if lines}


def _lines(text: str) -> list[str]:
    return [
        line.partition(" # ")[0].strip()
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]


def files(page: str) -> Iterator[tuple[str, str]]:
    """Names and texts of the files that a page shows for its commands."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for program in blocks(text, "python"):
        name = re.match(r"# (\w+\.py)\n", program)
        if name is not None:
            yield name[1], program
    for config in blocks(text, "json"):
        yield "config.json", config


def reason_not_to_run(line: str) -> str:
    """Why the tests do not run a command; empty where they do."""
    return next((why for part, why in ELSEWHERE.items() if part in line), "")


def to_run(line: str) -> str:
    """A command as the tests run it."""
    for shown, stand_in in REPLACED.items():
        line = line.replace(shown, stand_in)
    fitting = [part for part in ADDED if part in line]
    return f"{line} {ADDED[max(fitting, key=len)]}" if fitting else line
