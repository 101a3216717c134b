"""Two streams of a rank, against cases that are added up by hand."""

from __future__ import annotations

import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cost.block_order import BlockOrder, Called, Message, Moved
from planner.cost.timeline import Action, Compute, Start, Streams, Wait, run

_BUSY = Streams(interference=1.0)


class TestStreams(unittest.TestCase):

    def test_hidden(self) -> None:
        found = run([Start(0, 2.0), Compute(3.0), Wait(0)], Streams())
        self.assertEqual(found.time_s, 3.0)
        self.assertEqual(found.exposed_s, {0: 0.0})

    def test_exposed_in_part(self) -> None:
        found = run(
            [Start(0, 5.0), Compute(3.0),
             Wait(0), Compute(1.0)], Streams())
        self.assertEqual(found.time_s, 6.0)
        self.assertEqual(found.exposed_s, {0: 2.0})

    def test_messages_queue(self) -> None:
        found = run(
            [Start(0, 2.0),
             Start(1, 2.0),
             Wait(0),
             Compute(1.0),
             Wait(1)], Streams())
        self.assertEqual(found.time_s, 4.0)
        self.assertEqual(found.exposed_s, {0: 2.0, 1: 1.0})

    def test_never_waited_for(self) -> None:
        self.assertEqual(
            run([Start(0, 5.0), Compute(3.0)], Streams()).time_s, 5.0)

    def test_full_interference_wins_nothing(self) -> None:
        found = run([Start(0, 2.0), Compute(3.0), Wait(0)], _BUSY)
        self.assertEqual(found.time_s, 5.0)
        self.assertEqual(found.interference_s, 2.0)
        self.assertEqual(found.exposed_s, {0: 0.0})

    def test_half_interference(self) -> None:
        half = Streams(interference=0.5)
        found = run([Start(0, 2.0), Compute(3.0), Wait(0)], half)
        self.assertEqual(found.time_s, 4.0)
        # What is short is over before the message: at half the speed.
        short = run([Start(0, 9.0), Compute(3.0), Wait(0)], half)
        self.assertEqual(short.time_s, 9.0)
        self.assertEqual(short.exposed_s, {0: 3.0})

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_no_order_hides_more_than_interference(
            self, data: st.DataObject) -> None:
        """As the joint search bounds what has no stages."""
        times = st.floats(0.0, 4.0)
        sent_s = data.draw(st.lists(times, max_size=4))
        computed_s = data.draw(st.lists(times, max_size=6))
        share = data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
        actions: list[Action] = [Compute(s) for s in computed_s]
        for number, time_s in enumerate(sent_s):
            start = data.draw(st.integers(0, len(actions)))
            actions.insert(start, Start(number, time_s))
            if data.draw(st.booleans()):
                end = data.draw(st.integers(start + 1, len(actions)))
                actions.insert(end, Wait(number))
        found_s = run(actions, Streams(interference=share)).time_s
        least_s = max(sum(computed_s) + share * sum(sent_s), sum(sent_s))
        self.assertGreaterEqual(found_s, least_s * (1 - 1e-9))

    def test_stragglers(self) -> None:
        apart = Streams(straggling=0.5, straggling_limit_s=2.0)
        steps = [Compute(2.0), Start(0, 1.0), Wait(0)]
        found = run(steps, apart)
        self.assertEqual(found.time_s, 4.0)
        self.assertEqual(found.straggling_s, 1.0)
        self.assertEqual(found.exposed_s, {0: 1.0})
        self.assertEqual(run([Compute(20.0), *steps[1:]], apart).time_s, 23.0)

    def test_stragglers_hide_too(self) -> None:
        apart = Streams(straggling=0.5, straggling_limit_s=2.0)
        found = run(
            [Compute(2.0), Start(0, 1.0),
             Compute(5.0), Wait(0)], apart)
        self.assertEqual(found.time_s, 7.0)
        self.assertEqual(found.since_s, 5.0)

    def test_longer_messages_are_never_quicker(self) -> None:
        for streams in (Streams(), _BUSY, Streams(interference=0.3)):
            times = [
                run([
                    Start(0, s),
                    Compute(2.0),
                    Start(1, s),
                    Wait(0),
                    Compute(1.0),
                    Wait(1)
                ], streams).time_s for s in (0.0, 0.5, 1.0, 2.0, 4.0)
            ]
            self.assertEqual(times, sorted(times))


def _call(reads: str, makes: str, weight_s: float = 0.0) -> Called:
    return Called(reads=frozenset(reads),
                  makes=frozenset(makes),
                  forward_s=1.0,
                  backward_s=2.0,
                  weight_s=weight_s)


class TestOrder(unittest.TestCase):

    def test_weights_hide_the_gradient_of_the_input(self) -> None:
        """Megatron's f: nothing forward, an all-reduce backward."""
        moved = Moved(value="x", made=True, backward=[Message(0, 3.0)])
        order = BlockOrder(
            [_call("a", "x"), moved,
             _call("x", "y", weight_s=1.0)])
        self.assertEqual(run(order.forward(), Streams()).time_s, 2.0)
        back = run(order.backward(), Streams())
        # 1 for the input's gradient, 3 on the way, 1 of them hidden, 2.
        self.assertEqual(back.time_s, 6.0)
        self.assertEqual(back.exposed_s, {0: 2.0})

    def test_a_value_is_waited_for_by_its_reader(self) -> None:
        moved = Moved(value="x", made=True, forward=[Message(0, 3.0)])
        order = BlockOrder(
            [_call("a", "x"), moved,
             _call("b", "z"),
             _call("x", "y")])
        found = run(order.forward(), Streams())
        self.assertEqual(found.exposed_s, {0: 2.0})
        self.assertEqual(found.time_s, 5.0)

    def test_fetched_by_the_reader(self) -> None:
        moved = Moved(value="x", made=False, forward=[Message(0, 3.0)])
        order = BlockOrder([moved, _call("x", "y")])
        self.assertEqual(run(order.forward(), Streams()).time_s, 4.0)

    def test_again_comes_first(self) -> None:
        order = BlockOrder([_call("a", "x")], [_call("a", "x")])
        self.assertEqual(run(order.backward(), Streams()).time_s, 3.0)


if __name__ == "__main__":
    unittest.main()
