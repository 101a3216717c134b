"""What the loop asks of batches."""

from __future__ import annotations

import unittest
from types import SimpleNamespace
from typing import Any

import torch

from scaletorch.trainer.batches import check_batch


def module(**fields: int) -> Any:
    """A module with a config."""
    return SimpleNamespace(config=SimpleNamespace(**fields))


class TestCheckBatch(unittest.TestCase):

    def test_tokens(self) -> None:
        for name, size in (("tokens", "vocabulary_size"), ("input_ids",
                                                           "vocab_size")):
            batch = {name: torch.tensor([[0, 7]])}
            check_batch(batch, module(**{size: 8}))
            with self.assertRaisesRegex(
                    ValueError, "data: a batch has the token 7, but the "
                    "model has 7 of them"):
                check_batch(batch, module(**{size: 7}))

    def test_classes(self) -> None:
        batch = {"images": torch.zeros(2), "labels": torch.tensor([3, -100])}
        check_batch(batch, module(classes=4))
        with self.assertRaisesRegex(
                ValueError, r"data: a batch has the class 3 \(from 0 on\), "
                "but the model has 3 of them"):
            check_batch(batch, module(classes=3))

    def test_models_without_a_config(self) -> None:
        batch = {"tokens": torch.tensor([9]), "labels": torch.tensor([9])}
        check_batch(batch, SimpleNamespace())  # type: ignore[arg-type]
        check_batch(batch, module(width=1))


if __name__ == "__main__":
    unittest.main()
