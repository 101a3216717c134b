"""Collections while a plan is searched, and as they were after it."""

import gc
import unittest

from planner.garbage import few_collections, new_objects_alone


class FewCollections(unittest.TestCase):

    def setUp(self):
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        if gc.get_freeze_count():
            # As the preloaded modules of the tests are.
            gc.unfreeze()
            self.addCleanup(gc.freeze)

    def test_thresholds_and_frozen_objects_are_as_before_after_an_error(self):
        before, frozen = gc.get_threshold(), gc.get_freeze_count()
        with self.assertRaisesRegex(ValueError, "inside"), few_collections():
            self.assertGreater(gc.get_threshold()[0], before[0])
            raise ValueError("inside")
        self.assertEqual(gc.get_threshold(), before)
        self.assertEqual(gc.get_freeze_count(), frozen)

    def test_a_collector_that_is_off_or_slower_stays_so(self):
        for first in 0, 5_000_000:
            gc.set_threshold(first, 10, 10)
            with self.subTest(first), few_collections():
                self.assertEqual(gc.get_threshold()[0], first)

    def test_one_inside_of_another_changes_nothing(self):
        with few_collections():
            outer = gc.get_threshold()
            with few_collections(), new_objects_alone():
                self.assertEqual(gc.get_threshold(), outer)
            self.assertEqual(gc.get_threshold(), outer)


if __name__ == "__main__":
    unittest.main()
