"""The example of a mixture runs on two real ranks."""

from __future__ import annotations

import re
import unittest

from tests.e2e.example_ranks import printed_by_example


class TestMoe(unittest.TestCase):

    def test_two_ranks(self) -> None:
        text = printed_by_example(2, "moe.py", "--steps", "6", "--compare",
                                  "4", "--context", "16")
        self.assertIn("on 2 ranks", text)
        for layer in (0, 1):
            found = re.search(rf"layers.{layer}: tokens \[(.*)\], the busiest",
                              text)
            assert found is not None, text
            # 8 x 16 tokens go to two experts each.
            self.assertEqual(sum(map(int, found[1].split(","))), 256)
        difference = text.split()[-1]
        self.assertLess(float(difference), 1e-3)


if __name__ == "__main__":
    unittest.main()
