"""The order of sends and receives."""

from __future__ import annotations

import unittest
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.schedule.actions import Action, Schedule, chain
from planner.schedule.check import check_schedule
from planner.schedule.named import make_schedule, schedule_names
from planner.schedule.text import parse_schedule
from planner.schedule.transfers import Transfer, transfers

Pairs = tuple[tuple[int, int], ...]


def cases() -> Iterator[tuple[str, Schedule, Pairs]]:
    """Schedules with a chain and with skips."""
    for name in schedule_names():
        chunks = 2 if name in ("zbv", "dualpipev", "interleaved1f1b") else 1
        for ranks, microbatches in ((1, 3), (2, 5), (4, 8), (3, 2)):
            schedule = make_schedule(name,
                                     ranks=ranks,
                                     microbatches=microbatches,
                                     chunks=chunks)
            stages = schedule.stages
            skips = tuple(
                (s, t) for s in range(stages) for t in range(s + 2, stages, 2))
            for edges in (chain(stages), (*chain(stages), *skips)):
                yield f"{name} {ranks}x{microbatches} {edges}", schedule, edges


def post_key(post: Transfer) -> tuple[str, int, int, int]:
    return post.kind, post.source, post.target, post.microbatch


def run_blocking(schedule: Schedule, edges: Pairs) -> set[Action]:
    """Run with sends and receives that block: the worst executor.

    Each rank is one thread that does its actions and posts one by one; a
    send and its receive meet. Returns what ran.
    """
    posts = transfers(schedule, edges)
    programs = [[
        *sorted([(n + 0.5, a)
                 for n, a in enumerate(row)] + [(p.position, p)
                                                for p in posts[rank]],
                key=lambda item: item[0])
    ] for rank, row in enumerate(schedule.ranks)]
    heads, done, progress = [0] * len(programs), set(), True
    while progress:
        progress = False
        for rank, program in enumerate(programs):
            if heads[rank] == len(program):
                continue
            item = program[heads[rank]][1]
            if isinstance(item, Action):
                done.add(item)
                heads[rank] += 1
                progress = True
                continue
            peer = programs[item.peer]
            other = (peer[heads[item.peer]][1]
                     if heads[item.peer] < len(peer) else None)
            if (isinstance(other, Transfer) and other.peer == rank
                    and other.op != item.op
                    and post_key(other) == post_key(item)):
                heads[rank] += 1
                heads[item.peer] += 1
                progress = True
    return done


class TestTransfers(unittest.TestCase):

    def test_every_message_once_at_both_ends(self) -> None:
        for name, schedule, edges in cases():
            rank = schedule.stage_rank
            crossing = [e for e in edges if rank[e[0]] != rank[e[1]]]
            wanted = sorted(
                ("F" if forward else "B", *(e if forward else e[::-1]), m)
                for e in crossing for m in range(schedule.microbatches)
                for forward in (True, False))
            with self.subTest(name):
                for op in ("send", "receive"):
                    self.assertEqual(
                        sorted(
                            post_key(p) for row in transfers(schedule, edges)
                            for p in row if p.op == op), wanted)

    def test_two_ranks_agree_on_the_order(self) -> None:
        for name, schedule, edges in cases():
            posts = transfers(schedule, edges)
            with self.subTest(name):
                for a in range(len(posts)):
                    for b in range(a):
                        self.assertEqual([(post_key(p), p.op == "send")
                                          for p in posts[a] if p.peer == b],
                                         [(post_key(p), p.op == "receive")
                                          for p in posts[b] if p.peer == a])

    def test_posts_stand_where_they_can_be_done(self) -> None:
        for name, schedule, edges in cases():
            for one_queue in (True, False):
                posts = transfers(schedule, edges, one_queue=one_queue)
                with self.subTest(name, one_queue=one_queue):
                    for rank, row in enumerate(posts):
                        self.assert_positions(schedule.ranks[rank], row)

    def test_each_direction_has_an_order_of_its_own(self) -> None:
        for name, schedule, edges in cases():
            posts = transfers(schedule, edges, one_queue=False)
            with self.subTest(name):
                for a in range(len(posts)):
                    for b in range(len(posts)):
                        self.assertEqual([
                            post_key(p)
                            for p in posts[a] if p.peer == b and p.op == "send"
                        ], [
                            post_key(p) for p in posts[b]
                            if p.peer == a and p.op == "receive"
                        ])

    def test_receives_do_not_wait_for_sends(self) -> None:
        """Of the first rank: a gradient comes while it sends a value."""
        schedule = make_schedule("1f1b", ranks=2, microbatches=3)
        first, _ = transfers(schedule, one_queue=False)
        self.assertEqual([(p.position, str(p)) for p in first], [
            (1, "send F0 of 0->1 -> rank 1"),
            (2, "receive B0 of 1->0 <- rank 1"),
            (2, "receive B1 of 1->0 <- rank 1"),
            (2, "send F1 of 0->1 -> rank 1"),
            (4, "receive B2 of 1->0 <- rank 1"),
            (4, "send F2 of 0->1 -> rank 1"),
        ])

    def assert_positions(self, actions: tuple[Action, ...],
                         row: tuple[Transfer, ...]) -> None:
        last = 0
        for post in row:
            self.assertGreaterEqual(post.position, last)
            last = post.position
            kinds = "F" if post.kind == "F" else "BI"
            stage = post.source if post.op == "send" else post.target
            at = next(n for n, a in enumerate(actions) if a.kind in kinds
                      and a.stage == stage and a.microbatch == post.microbatch)
            if post.op == "send":
                self.assertGreater(post.position, at)
            else:
                self.assertLessEqual(post.position, at)

    def test_blocking_sends_and_receives_do_not_deadlock(self) -> None:
        for name, schedule, edges in cases():
            with self.subTest(name):
                self.assertEqual(run_blocking(schedule, edges),
                                 set(schedule.actions))

    def test_inference_sends_no_gradients(self) -> None:
        schedule = parse_schedule("0F0 0F1\n1F0 1F1")
        check_schedule(schedule, inference=True)
        first, second = transfers(schedule)
        self.assertEqual(list(map(str, first)), [
            "send F0 of 0->1 -> rank 1",
            "send F1 of 0->1 -> rank 1",
        ])
        self.assertEqual(list(map(str, second)), [
            "receive F0 of 0->1 <- rank 0",
            "receive F1 of 0->1 <- rank 0",
        ])

    def test_stuck_schedule_is_a_mistake_of_the_caller(self) -> None:
        with self.assertRaisesRegex(AssertionError, "check_schedule"):
            transfers(parse_schedule("1F0 0F0 1B0 0B0"))

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 5), st.integers(1, 9), st.data())
    def test_any_skips(self, ranks: int, microbatches: int,
                       data: st.DataObject) -> None:
        schedule = make_schedule("interleaved1f1b",
                                 ranks=ranks,
                                 microbatches=microbatches,
                                 chunks=2)
        pairs = [(s, t) for t in range(2 * ranks) for s in range(t)]
        edges = (*chain(2 * ranks),
                 *data.draw(st.lists(st.sampled_from(pairs), unique=True)))
        self.assertEqual(run_blocking(schedule, tuple(set(edges))),
                         set(schedule.actions))


if __name__ == "__main__":
    unittest.main()
