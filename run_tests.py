"""Run the tests: every module in a process of its own, several at once.

``python run_tests.py [-k PATTERN] [--jobs N] [--nightly] [PATH...]``

The last line printed is ``N passed, N failed, N skipped``. The exit status
is 0 if no test failed and at least one ran.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

__all__ = ["Outcomes", "main", "test_modules"]

ROOT = Path(__file__).resolve().parent
LONG = ("test_loop.py", "test_ring_attention.py")
OURS = r"(planner|passes|scaletorch|scripts|tests|examples)(\.|$)"


class Outcomes(unittest.TestResult):
    """What became of each test, by its id, and the failures' tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.by_id: dict[str, str] = {}

    def count(self) -> Counter[str]:
        return Counter(self.by_id.values())

    def _fail(self, test: unittest.TestCase, text: str) -> None:
        case = getattr(test, "test_case", test)
        self.by_id[case.id()] = "failed"
        print(f"{'=' * 70}\nFAILED {test.id()}\n{text}", flush=True)

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.by_id[test.id()] = "passed"

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self.by_id[test.id()] = "passed"

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._fail(test, "passed, though it is marked as expected to fail\n")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        case = getattr(test, "test_case", test)
        self.by_id.setdefault(case.id(), "skipped")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._fail(test, self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._fail(test, self.errors[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase,
                   err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            text = "".join(traceback.format_exception(*err))
            self._fail(subtest, text)


@dataclass(slots=True, kw_only=True)
class Job:
    """One test module in its own process."""

    module: str
    process: Any
    reader: Connection
    log: Path
    started_s: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


def test_modules(paths: Sequence[str]) -> list[str]:
    """Dotted names of the test modules at or below `paths`, end-to-end
    tests and `LONG` files first because they take longest."""
    found: set[Path] = set()
    for path in map(Path, paths or ["tests"]):
        path = (ROOT / path).resolve()
        files = path.rglob("test_*.py") if path.is_dir() else [path]
        found.update(file.relative_to(ROOT) for file in files)
    ordered = sorted(found,
                     key=lambda p:
                     ("e2e" not in p.parts and p.name not in LONG, p))
    return [".".join(path.with_suffix("").parts) for path in ordered]


def _run_module(module: str, patterns: list[str] | None,
                outcomes: Outcomes) -> None:
    loader = unittest.TestLoader()
    loader.testNamePatterns = patterns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", module=OURS)
        try:
            suite = loader.loadTestsFromName(module)
        except unittest.SkipTest:
            outcomes.by_id[module] = "skipped"
            return
        _fork_server()
        suite.run(outcomes)


def _fork_server() -> None:
    """For a module that starts ranks: nothing has run yet, so that they can
    be forked from one that has what this process has imported."""
    if "tests.launch" in sys.modules:
        importlib.import_module("tests.forked_server").fork_server()


def _child(module: str, patterns: list[str] | None, log: Path,
           writer: Connection) -> None:
    # A group of its own, so that what a test started ends with it.
    os.setsid()
    target = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(target, 1)
    os.dup2(target, 2)
    outcomes = Outcomes()
    _run_module(module, patterns, outcomes)
    writer.send(outcomes.count())


def _start(module: str, patterns: list[str] | None, folder: Path) -> Job:
    context = multiprocessing.get_context("forkserver")
    reader, writer = context.Pipe(duplex=False)
    log = folder / f"{module}.log"
    process = context.Process(target=_child,
                              args=(module, patterns, log, writer))
    process.start()
    writer.close()
    return Job(module=module, process=process, reader=reader, log=log)


def _end(job: Job) -> None:
    """Kill what there is of a job; one that has ended may have left some."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(job.process.pid, signal.SIGKILL)
    job.process.join()


def _finish(job: Job, reason: str = "") -> None:
    """Collect a job that has ended, or end it for `reason`."""
    _end(job)
    job.seconds = time.monotonic() - job.started_s
    with contextlib.suppress(EOFError):
        if job.reader.poll():
            job.counts = job.reader.recv()
    if reason or job.process.exitcode:
        job.counts["failed"] += 1
        reason = reason or f"died with status {job.process.exitcode}"
    text = job.log.read_text(errors="replace") if job.log.exists() else ""
    if job.counts["failed"]:
        print(f"{'#' * 70}\n{job.module} {reason}\n{text}", flush=True)


def _run_all(modules: Sequence[str], options: argparse.Namespace,
             folder: Path) -> Iterator[Job]:
    """Start jobs as others end; yield each that has ended."""
    waiting, running = list(modules), list[Job]()
    try:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                running.append(_start(waiting.pop(0), options.patterns,
                                      folder))
            ready = wait([job.process.sentinel for job in running], timeout=1)
            for job in list(running):
                late = time.monotonic() - job.started_s > options.timeout_s
                if job.process.sentinel in ready or late:
                    _finish(job, f"took over {options.timeout_s} s" * late)
                    running.remove(job)
                    yield job
    finally:
        for job in running:
            _end(job)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths",
                        nargs="*",
                        help="test files or folders (default: all)")
    parser.add_argument("-k",
                        dest="patterns",
                        action="append",
                        help="only tests whose name has this in it")
    parser.add_argument("--jobs",
                        type=int,
                        default=len(os.sched_getaffinity(0)),
                        help="modules run at once (default: all cores)")
    parser.add_argument("--nightly",
                        action="store_true",
                        help="also the tests that take long")
    parser.add_argument("--timeout-s",
                        type=float,
                        default=900.0,
                        help="seconds a module may take")
    options = parser.parse_args(arguments)
    if options.patterns:
        options.patterns = [
            text if "*" in text else f"*{text}*" for text in options.patterns
        ]
    return options


def _prepare(modules: Sequence[str], options: argparse.Namespace,
             folder: Path) -> None:
    """Set what the processes inherit."""
    # A profile of this machine must not decide what tests plan for.
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.environ["SCALETORCH_CLUSTER"] = "cpu-gloo"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if options.nightly:
        os.environ["SCALETORCH_NIGHTLY"] = "1"
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    if len(modules) > 1:
        # Every module's process is then forked from one that has it.
        multiprocessing.get_context("forkserver").set_forkserver_preload(
            ["tests.preload"])


def _report(jobs: Sequence[Job], seconds: float) -> int:
    total: Counter[str] = sum((job.counts for job in jobs), Counter())
    slowest = sorted(jobs, key=lambda job: (-job.seconds, job.module))[:10]
    print("slowest modules:")
    for job in slowest:
        print(f"  {job.seconds:7.1f} s  {job.module}")
    for job in sorted(jobs, key=lambda job: job.module):
        if job.counts["failed"]:
            print(f"failed: {job.module}")
    executed = total["passed"] + total["failed"]
    if not executed:
        print("no test was executed: that counts as a failure")
    print(f"{len(jobs)} modules in {seconds:.1f} s")
    print(
        f"{total['passed']} passed, {total['failed']} failed, "
        f"{total['skipped']} skipped",
        flush=True)
    return int(not executed or total["failed"] > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests; 0 if at least one ran and none failed, else 1."""
    options = _parse(arguments)
    modules = test_modules(options.paths)
    folder = Path(tempfile.mkdtemp())
    _prepare(modules, options, folder)
    started_s = time.monotonic()
    # Jobs have sessions of their own, which no signal to this one ends.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        jobs = list(_run_all(modules, options, folder))
    finally:
        shutil.rmtree(folder)
    return _report(jobs, time.monotonic() - started_s)


if __name__ == "__main__":
    sys.exit(main())
