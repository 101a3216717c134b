"""The shape of the source tree: who may import whom, and what lies where."""

from __future__ import annotations

import ast
import importlib
import unittest
from pathlib import Path

from scripts.check_quotes import single_quoted
from scripts.check_text import BINARY_SUFFIXES, clean
from tests.tree import PACKAGES, ROOT, project_files, python_files

# What the files below a folder may import of ours, the longest match counts.
ARROWS = {
    "planner": ("planner", ),
    "passes": ("passes", "planner"),
    "scaletorch": ("scaletorch", "passes", "planner"),
    "scaletorch/data": ("scaletorch.data", "planner.names"),
    "scaletorch/models":
    ("scaletorch.models", "planner.names", "planner.piped"),
}
OURS = (*PACKAGES, "benchmarks", "examples", "scripts", "tests")


def imported(source: str, package: str) -> list[str]:
    """Names of the modules that a source text imports.

    `package` is the dotted package of the file, for relative imports.
    ``from a import b`` counts as ``a.b``, since `b` may be a module.
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[:len(parts) + 1 - node.level] if node.level else []
            base += [node.module] if node.module else []
            names += [".".join([*base, alias.name]) for alias in node.names]
    return names


def is_below(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in packages)


def backward_imports(path: Path) -> list[str]:
    """Imports of a file that run against the arrows."""
    relative = path.relative_to(ROOT)
    folder = max((a for a in ARROWS if relative.is_relative_to(a)), key=len)
    names = imported(path.read_text(encoding="utf-8"),
                     ".".join(relative.parent.parts))
    return [
        name for name in names
        if is_below(name, OURS) and not is_below(name, ARROWS[folder])
    ]


class TestImports(unittest.TestCase):

    def test_every_kind_of_import_is_seen(self) -> None:
        source = ("import a.b\nfrom c import d\n"
                  "def f():\n    from . import e\n    from ..g import h\n")
        self.assertEqual(imported(source, "x.y"),
                         ["a.b", "c.d", "x.y.e", "x.g.h"])

    def test_arrows_run_one_way(self) -> None:
        for path in python_files(*PACKAGES):
            with self.subTest(str(path.relative_to(ROOT))):
                self.assertEqual(
                    backward_imports(path), [],
                    "data flows planner -> passes -> scaletorch, and a file "
                    "imports only what stands before it")

    def test_packages_resolve_to_this_tree(self) -> None:
        for name in PACKAGES:
            module = importlib.import_module(name)
            self.assertEqual(Path(module.__file__ or "").parent, ROOT / name)


class TestFolders(unittest.TestCase):

    def test_no_test_folder_hides_a_package(self) -> None:
        # Discovery without -t puts tests/ first on sys.path.
        names = {path.name for path in (ROOT / "tests").iterdir()}
        self.assertEqual(names & set(OURS), set(),
                         "name the folder test_<package>")

    def test_discovery_finds_every_test(self) -> None:
        for path in python_files("tests"):
            with self.subTest(str(path.relative_to(ROOT))):
                self.assertTrue(
                    path.with_name("__init__.py").exists(),
                    "the folder needs an __init__.py")

    def test_every_package_folder_has_an_init(self) -> None:
        for path in python_files(*PACKAGES):
            with self.subTest(str(path.relative_to(ROOT))):
                self.assertTrue(path.with_name("__init__.py").exists())


class TestText(unittest.TestCase):

    def test_white_space(self) -> None:
        for path in project_files():
            if path.suffix not in BINARY_SUFFIXES:
                with self.subTest(str(path.relative_to(ROOT))):
                    data = path.read_bytes()
                    self.assertEqual(data, clean(data))

    def test_nothing_is_left_for_later(self) -> None:
        marks = tuple(f"{word}".encode() for word in ("TO"
                                                      "DO", "FIX"
                                                      "ME"))
        for path in project_files():
            if path.suffix not in BINARY_SUFFIXES:
                with self.subTest(str(path.relative_to(ROOT))):
                    data = path.read_bytes()
                    self.assertEqual([m for m in marks if m in data], [])

    def test_double_quotes(self) -> None:
        for path in project_files():
            if path.suffix == ".py":
                with self.subTest(str(path.relative_to(ROOT))):
                    source = path.read_text(encoding="utf-8")
                    self.assertEqual(single_quoted(source), [])


if __name__ == "__main__":
    unittest.main()
