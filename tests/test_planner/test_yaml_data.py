"""YAML of plain data: what is read and what is refused."""

from __future__ import annotations

import unittest

from planner.yaml_data import read_yaml


class TestReadYaml(unittest.TestCase):

    def refused(self, text: str) -> str:
        with self.assertRaises(ValueError) as caught:
            read_yaml(text, "here.yaml")
        self.assertTrue(
            str(caught.exception).startswith(
                "here.yaml is no YAML of plain data: "))
        return str(caught.exception)

    def test_plain(self) -> None:
        self.assertEqual(read_yaml("a: [1, x]\nb: {c: null}", "here.yaml"), {
            "a": [1, "x"],
            "b": {
                "c": None
            }
        })
        self.assertIsNone(read_yaml("", "here.yaml"))

    def test_a_key_that_stands_twice(self) -> None:
        text = self.refused("train: {steps: 3}\nplan: ddp\ntrain: {lr: 1}")
        self.assertIn("the key 'train' stands here a second time", text)
        self.assertIn("line 3", text)
        self.assertIn("'steps'", self.refused("train: {steps: 3, steps: 4}"))

    def test_the_same_key_in_two_mappings(self) -> None:
        self.assertEqual(read_yaml("[{a: 1}, {a: 2}]", "x"), [{
            "a": 1
        }, {
            "a": 2
        }])

    def test_what_is_merged_may_be_said_anew(self) -> None:
        found = read_yaml(
            "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\n"
            "c: {<<: *b, y: 4}", "x")
        self.assertEqual(found["b"], {"x": 3, "y": 2})

    def test_no_yaml(self) -> None:
        self.assertIn("line 2", self.refused("a:\n\tb: 1"))
        self.refused("a: [")
        self.refused("a: !!python/object/apply:os.getcwd []")


if __name__ == "__main__":
    unittest.main()
