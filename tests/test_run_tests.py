from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
import unittest
from collections import Counter
from pathlib import Path

import run_tests
from tests.tree import ROOT


def outcomes_of(case: type[unittest.TestCase]) -> tuple[Counter[str], str]:
    outcomes, printed = run_tests.Outcomes(), io.StringIO()
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    with contextlib.redirect_stdout(printed):
        suite.run(outcomes)
    return outcomes.count(), printed.getvalue()


class TestOutcomes(unittest.TestCase):

    def test_each_test_counts_once(self) -> None:

        class Case(unittest.TestCase):

            def test_skips_a_part(self) -> None:
                with self.subTest(1):
                    self.skipTest("why")

            def test_fails_twice(self) -> None:
                for i in range(2):
                    with self.subTest(i):
                        self.fail("text of the failure")

            def test_raises(self) -> None:
                raise ValueError

            @unittest.expectedFailure
            def test_known(self) -> None:
                self.fail()

            @unittest.expectedFailure
            def test_mended(self) -> None:
                pass

            @unittest.skip("why")
            def test_skipped(self) -> None:
                self.fail()

        counts, text = outcomes_of(Case)
        self.assertEqual(counts, Counter(passed=1, failed=3, skipped=2))
        self.assertEqual(text.count("AssertionError: text of"), 2)
        self.assertRegex(text, r"FAILED .*test_fails_twice \[1\]\n")
        self.assertIn("marked as expected to fail", text)

    def test_a_class_that_cannot_be_set_up_fails(self) -> None:

        class Case(unittest.TestCase):

            @classmethod
            def setUpClass(cls) -> None:
                raise ValueError

            def test_never_runs(self) -> None:
                pass

        self.assertEqual(outcomes_of(Case)[0], Counter(failed=1))


class TestCommand(unittest.TestCase):

    def run_case(self, name: str, *options: str) -> tuple[int, str, str]:
        """Exit status, last line and all that was printed."""
        command = [
            sys.executable, "run_tests.py", "-k", f"Cases.{name}", *options,
            "tests/run_tests_cases.py"
        ]
        environment = dict(os.environ)
        environment.pop("SCALETORCH_NIGHTLY", None)
        done = subprocess.run(command,
                              env=environment,
                              cwd=ROOT,
                              capture_output=True,
                              text=True)
        return done.returncode, done.stdout.splitlines()[-1], done.stdout

    def test_success(self) -> None:
        code, last, text = self.run_case("test_prints")
        self.assertEqual((code, last), (0, "1 passed, 0 failed, 0 skipped"))
        self.assertNotIn("not shown", text)

    def test_no_test_is_a_failure(self) -> None:
        code, last, text = self.run_case("no_such_test")
        self.assertEqual((code, last), (1, "0 passed, 0 failed, 0 skipped"))
        self.assertIn("no test was executed", text)

    def test_only_a_nightly_run_has_the_long_tests(self) -> None:
        code, last, _ = self.run_case("test_takes_long")
        self.assertEqual((code, last), (1, "0 passed, 0 failed, 1 skipped"))
        code, last, _ = self.run_case("test_takes_long", "--nightly")
        self.assertEqual((code, last), (0, "1 passed, 0 failed, 0 skipped"))

    def test_a_module_that_cannot_be_imported_fails_any_selection(
            self) -> None:
        code, last, text = self.run_case("test_prints", "tests/missing.py")
        self.assertEqual((code, last), (1, "1 passed, 1 failed, 0 skipped"))
        self.assertIn("No module named 'tests.missing'", text)

    def test_our_own_warnings_are_errors(self) -> None:
        code, last, text = self.run_case("test_warns")
        self.assertEqual((code, last), (1, "0 passed, 1 failed, 0 skipped"))
        self.assertIn("UserWarning: from our own code", text)

    def test_a_module_that_dies_has_failed(self) -> None:
        code, last, text = self.run_case("test_dies")
        self.assertEqual((code, last), (1, "0 passed, 1 failed, 0 skipped"))
        self.assertIn("died with status 3", text)

    def test_a_module_that_hangs_is_ended(self) -> None:
        code, last, text = self.run_case("test_hangs", "--timeout-s", "2")
        self.assertEqual((code, last), (1, "0 passed, 1 failed, 0 skipped"))
        self.assertIn("took over 2.0 s", text)

    def test_modules_end_with_the_run(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            told = Path(folder) / "told"
            run = subprocess.Popen([
                sys.executable, "run_tests.py", "-k", "test_waits_for_the_end",
                "tests/run_tests_cases.py"
            ],
                                   env=os.environ
                                   | {"RUN_TESTS_CASES_FILE": str(told)},
                                   cwd=ROOT)
            self.addCleanup(run.kill)
            while not told.exists():
                self.assertIsNone(run.poll())
                time.sleep(0.02)
            run.terminate()
            self.assertEqual(run.wait(timeout=60), 143)
            with self.assertRaises(ProcessLookupError):
                os.kill(int(told.read_text()), 0)


class TestModules(unittest.TestCase):

    def test_names(self) -> None:
        found = run_tests.test_modules(["tests"])
        self.assertIn("tests.test_scripts.test_check_text", found)
        self.assertEqual(run_tests.test_modules(["tests/test_golden.py"]),
                         ["tests.test_golden"])
        end_to_end = [".e2e." in name for name in found]
        self.assertEqual(end_to_end, sorted(end_to_end, reverse=True))
        second = found[sum(end_to_end):][:len(run_tests.LONG)]
        self.assertEqual({f"{name.split('.')[-1]}.py"
                          for name in second}, set(run_tests.LONG))


if __name__ == "__main__":
    unittest.main()
