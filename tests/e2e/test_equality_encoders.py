"""Model by plan equality with the single-device program: encoders."""

from __future__ import annotations

import unittest

from tests.e2e.equality import FEW, MOST, SOME, check_model


class Encoders(unittest.TestCase):
    """Loss, gradients and three AdamW steps, under every plan."""

    def test_bert(self) -> None:
        check_model(self, "bert", MOST)

    def test_t5(self) -> None:
        check_model(self, "t5", SOME)

    def test_modernbert(self) -> None:
        check_model(self, "modernbert", FEW)


if __name__ == "__main__":
    unittest.main()
