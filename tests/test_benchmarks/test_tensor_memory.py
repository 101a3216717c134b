"""Peaks of tensors that are freed, and of those that are emptied."""

from __future__ import annotations

from unittest import TestCase

import torch

from benchmarks.tensor_memory import peak_bytes


class TestPeak(TestCase):

    def test_what_is_freed_makes_place(self) -> None:

        def run() -> None:
            for _ in range(3):
                torch.zeros(256).exp()

        self.assertEqual(peak_bytes(run), 2 * 1024)

    def test_memory_that_was_given_back_is_free_whoever_holds_it(self) -> None:

        def run() -> torch.Tensor:
            held = torch.zeros(256)
            held.untyped_storage().resize_(0)
            torch.ones(128)
            return held

        self.assertEqual(peak_bytes(run), 1024)
