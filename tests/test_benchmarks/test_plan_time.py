from __future__ import annotations

import unittest

from benchmarks.plan_time import CASES, built


class TestCases(unittest.TestCase):

    def test_the_models_have_the_sizes_that_their_names_say(self) -> None:
        billions = {
            name:
            sum(p.numel() for p in built(CASES[name]).model.parameters()) / 1e9
            for name in ("Llama 8B on 8", "ViT 22B on 1024", "T5 11B on 256")
        }
        self.assertAlmostEqual(billions["Llama 8B on 8"], 8.0, delta=0.1)
        self.assertAlmostEqual(billions["ViT 22B on 1024"], 21.8, delta=0.3)
        self.assertAlmostEqual(billions["T5 11B on 256"], 11.3, delta=0.3)


if __name__ == "__main__":
    unittest.main()
