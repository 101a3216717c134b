"""Values of a config against what a callable is annotated with."""

from __future__ import annotations

import unittest
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scaletorch import data
from scaletorch.data.options import check_least, check_values

if TYPE_CHECKING:
    from nowhere import Unknown


def make(*,
         size: int = 1,
         share: float = 0.5,
         name: str | None = None,
         path: str | Sequence[str] = "",
         names: Mapping[str, str | None] | None = None,
         whole: bool = True,
         other: complex = 0j) -> None:
    """Has one parameter of each kind."""


class TestValues(unittest.TestCase):

    def test_what_fits(self) -> None:
        check_values(
            make, {
                "size": 3,
                "share": 1,
                "name": None,
                "path": ["a", "b"],
                "names": {
                    "x": None
                },
                "whole": False,
                "other": "anything",
                "unknown": 5
            })

    def test_what_does_not(self) -> None:
        for name, value, text in (
            ("size", "3", "size must be a whole number, got '3'"),
            ("size", True, "size must be a whole number, got True"),
            ("share", "1e-1", "share must be a number, got '1e-1'"),
            ("share", False, "share must be a number, got False"),
            ("name", 5, "name must be a text or null, got 5"),
            ("path", [1], "path must be a text or a list, each a text"),
            ("path", {}, "path must be a text or a list, each a text"),
            ("names", ["x"], "names must be a mapping, each a text or null"),
            ("whole", "no", "whole must be true or false, got 'no'"),
        ):
            with self.subTest(name=name, value=value):
                with self.assertRaises(ValueError) as caught:
                    check_values(make, {name: value})
                self.assertTrue(
                    str(caught.exception).startswith(text),
                    str(caught.exception))

    def test_types_that_are_not_there(self) -> None:

        def unclear(*, size: int, other: Unknown) -> None:
            """Its annotations can't be looked up."""

        check_values(unclear, {"size": "3"})

    def test_numbers(self) -> None:
        check_least(1, size=1)
        with self.assertRaisesRegex(
                ValueError, "^size must be a number from 1 "
                "on, got 0"):
            check_least(1, size=0)
        for value in ("3", 3.0, True):
            with self.assertRaises(ValueError):
                check_least(1, size=value)  # type: ignore[arg-type]


class TestData(unittest.TestCase):
    """Through what builds a loader."""

    def refused(self, **options: Any) -> str:
        config = {
            "kind": "random_tokens",
            "sequence_length": 4,
            "vocabulary_size": 8,
            "batch_size": 2
        }
        with self.assertRaises(ValueError) as caught:
            data.build(config | options, name="evaluation_data")
        return str(caught.exception)

    def test_types(self) -> None:
        for name, value in (("batch_size", 8.0), ("sequence_length", "4"),
                            ("shuffle", "no"), ("part", 0.5),
                            ("part", ["a", "b"]), ("names", ["tokens"]),
                            ("seed", "a"), ("drop_last", 0)):
            with self.subTest(name=name):
                self.assertTrue(
                    self.refused(**{
                        name: value
                    }).startswith(f"evaluation_data.{name} must be "))

    def test_values(self) -> None:
        for name, value in (("batch_size", 0), ("sequence_length", 0),
                            ("vocabulary_size", 0), ("choices", 0),
                            ("length", 0), ("seed", -1), ("workers", -1)):
            with self.subTest(name=name):
                self.assertTrue(
                    self.refused(**{
                        name: value
                    }).startswith(f"evaluation_data: {name} must be a "))

    def test_too_few_samples(self) -> None:
        self.assertEqual(
            self.refused(length=9, part=[0, 0.1]),
            "evaluation_data: there are 1 samples, which make no batch of 2; "
            "give it more data, a smaller batch_size or drop_last: false")


if __name__ == "__main__":
    unittest.main()
