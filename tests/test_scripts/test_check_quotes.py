from __future__ import annotations

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

from scripts.check_quotes import main, single_quoted


class TestSingleQuoted(unittest.TestCase):

    def test_double_quotes_are_right(self) -> None:
        self.assertEqual(single_quoted('a = "x" + r"y" + """it\'s"""\n'), [])

    def test_single_quotes_are_found_with_any_prefix(self) -> None:
        source = "a = 'x'\nb = rb'y'\nc = '''z\n'''\nd = f'{a}'\n"
        self.assertEqual(single_quoted(source), [1, 2, 3, 5])

    def test_single_quotes_may_hold_double_quotes(self) -> None:
        self.assertEqual(single_quoted("a = 'say \"x\"'\n"), [])

    def test_inside_an_f_string_single_quotes_are_right(self) -> None:
        self.assertEqual(single_quoted("a = f\"{b['c']} {d}\"\n"), [])

    def test_comments_and_nested_quotes_do_not_count(self) -> None:
        self.assertEqual(single_quoted("# 'x'\na = \"'x'\"\n"), [])


class TestMain(unittest.TestCase):

    def test_names_file_and_line(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.py"
            path.write_text("a = 1\nb = 'x'\n")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                self.assertEqual(main([str(path)]), 1)
            self.assertEqual(
                printed.getvalue(),
                f"{path}:2: write this string in double quotes\n")
            path.write_text('b = "x"\n')
            self.assertEqual(main([str(path)]), 0)


if __name__ == "__main__":
    unittest.main()
