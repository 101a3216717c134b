from __future__ import annotations

import unittest
from typing import Any

from scripts.published.case import Unreadable
from scripts.published.tidy import tidy
from tests.test_scripts.rows import row


class TestTidy(unittest.TestCase):

    def test_text_is_read_as_numbers(self) -> None:
        found = tidy(
            row(global_batch="1,024",
                model={
                    "layers": "24",
                    "hidden": 2048.0,
                    "vocab": "250k",
                    "seq": " 4k "
                },
                measured={"iteration_time_ms": ["1.5", 2, None]}))
        self.assertEqual(found["global_batch"], 1024)
        self.assertEqual(found["model"], {
            "layers": 24,
            "hidden": 2048,
            "vocab": 250000,
            "seq": 4000
        })
        self.assertEqual(found["measured"], {"iteration_time_ms": 1.75})

    def test_what_is_empty_is_not_stated(self) -> None:
        found = tidy(
            row(micro_batch="",
                hardware={
                    "gpu": "A100",
                    "count": None
                },
                measured={"tokens_per_s": float("nan")},
                source="a paper",
                unknown={"new": 1}))
        self.assertNotIn("micro_batch", found)
        self.assertEqual(found["hardware"], {"gpu": "A100"})
        self.assertEqual(found["measured"], {})
        self.assertEqual(found["source"], {"name": "a paper"})
        self.assertEqual(found["unknown"], {"new": 1})

    def test_flags_may_be_words(self) -> None:
        found = tidy(
            row(cpu_offload="none",
                torch_compile="",
                model={"gated_mlp": "Yes"},
                parallel={
                    "sequence_parallel": "false",
                    "async_tp": 1
                }))
        self.assertEqual(found["cpu_offload"], False)
        self.assertNotIn("torch_compile", found)
        self.assertEqual(found["model"], {"gated_mlp": True})
        self.assertEqual(found["parallel"], {
            "sequence_parallel": False,
            "async_tp": True
        })

    def test_repeats_count_by_their_median(self) -> None:
        found = tidy(
            row(measured={
                "tokens_per_s": [1, 9, 2],
                "peak_mem_gb": [20, 30]
            }))
        self.assertEqual(found["measured"], {
            "tokens_per_s": 2,
            "peak_mem_gb": 25
        })

    def test_minus_one_is_a_group_of_all(self) -> None:
        found = tidy(row(parallel={"tp": 1, "zero1_group": "-1"}))
        self.assertEqual(found["parallel"]["zero1_group"], -1)

    def test_the_row_is_left_as_it_was(self) -> None:
        plain = row(global_batch="8")
        tidy(plain)
        self.assertEqual(plain["global_batch"], "8")

    def test_what_makes_no_sense_is_said(self) -> None:
        wrong: tuple[tuple[Any, str], ...] = (
            (None, "the row is no mapping but None"),
            (row(model=[]), r"model is no mapping but \[\]"),
            (row(global_batch=True), "global_batch is no number: True"),
            (row(micro_batch=1.5), "micro_batch is no whole number"),
            (row(parallel={"tp": -1}), "tp is no whole number"),
            (row(parallel={"pp": "two"}), "pp is no number: .two."),
            (row(measured={"iteration_time_s": 0}), "more than nothing"),
            (row(parallel={"sequence_parallel": "perhaps"}),
             "sequence_parallel is neither yes nor no: 'perhaps'"),
            (row(model={"layers": 1e30}), "layers is no whole number"),
        )
        for raw, text in wrong:
            with self.subTest(text):
                with self.assertRaisesRegex(Unreadable, text):
                    tidy(raw)


if __name__ == "__main__":
    unittest.main()
