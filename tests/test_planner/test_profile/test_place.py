"""Which processes share processors, whatever their hosts are called."""

from __future__ import annotations

import unittest

from planner.profile.place import (Place, most_on_one_machine, place,
                                   processors_are_shared)


def _places(*machines: str,
            processors: frozenset[int] = frozenset({0, 1}),
            threads: int = 1) -> list[Place]:
    return [
        Place(host=f"host{n}",
              machine=machine,
              processors=processors,
              threads=threads) for n, machine in enumerate(machines)
    ]


class TestPlaces(unittest.TestCase):

    def test_hosts_of_one_machine(self) -> None:
        """Containers and namespaces have names of their own."""
        self.assertTrue(processors_are_shared(_places("m", "m", "m")))
        self.assertFalse(processors_are_shared(_places("m", "m")))
        self.assertFalse(processors_are_shared(_places("m", "m", "n", "n")))

    def test_threads_count(self) -> None:
        self.assertTrue(processors_are_shared(_places("m", "m", threads=2)))

    def test_processors_of_their_own(self) -> None:
        first = _places("m", "m", processors=frozenset({0, 1}))
        second = _places("m", "m", processors=frozenset({2, 3}))
        self.assertFalse(processors_are_shared([*first, *second]))
        self.assertTrue(processors_are_shared([*first, *second, *first]))

    def test_most(self) -> None:
        self.assertEqual(most_on_one_machine(_places("m", "n", "m")), 2)

    def test_this_process(self) -> None:
        here = place(3)
        self.assertEqual(here.threads, 3)
        self.assertTrue(here.machine and here.processors)


if __name__ == "__main__":
    unittest.main()
