"""Global batches do not depend on who loads them, nor on stops."""

from __future__ import annotations

import itertools
import multiprocessing
import subprocess
import unittest

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaletorch.data import Augmented, Loader, Sample, build


class Numbers:
    """Sample i is the number i."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        return {"x": torch.tensor([index])}


class Noise:
    """Samples that differ from epoch to epoch."""

    def __len__(self) -> int:
        return 8

    def augmented(self, index: int, seed: int) -> Sample:
        draw = torch.Generator().manual_seed(seed)
        return {"x": torch.rand(2, generator=draw) + index}


class Ragged(Numbers):

    def __getitem__(self, index: int) -> Sample:
        return {"x": torch.zeros(index)}


def rest(loader: Loader) -> list[list[int]]:
    """The rest of the epoch."""
    return [batch["x"].flatten().tolist() for batch in loader]


class TestOrder(unittest.TestCase):

    @settings(deadline=None, max_examples=60)
    @given(st.integers(1, 70), st.integers(1, 9), st.integers(0, 3))
    def test_an_epoch_has_every_sample_once(self, length: int, size: int,
                                            seed: int) -> None:
        loader = Loader(Numbers(length),
                        batch_size=size,
                        seed=seed,
                        drop_last=False)
        batches = rest(loader)
        self.assertEqual(sorted(sum(batches, [])), list(range(length)))
        self.assertEqual(len(batches), loader.len_batches)
        self.assertEqual(loader.epoch, 1)

    def test_a_large_epoch_costs_nothing(self) -> None:
        batch = next(iter(Loader(Numbers(10**12), batch_size=4, workers=1)))
        self.assertEqual(len(set(batch["x"].flatten().tolist())), 4)

    def test_epochs_and_seeds_differ(self) -> None:
        loader = Loader(Numbers(40), batch_size=40)
        other = Loader(Numbers(40), batch_size=40, seed=1)
        orders = [*rest(loader), *rest(loader), *rest(other)]
        self.assertEqual(len({tuple(o) for o in orders}), 3)

    def test_without_shuffling_samples_come_in_order(self) -> None:
        loader = Loader(Numbers(7), batch_size=3, shuffle=False)
        self.assertEqual(rest(loader), [[0, 1, 2], [3, 4, 5]])

    def test_workers_outlive_a_launcher_s_signal(self) -> None:
        batches = iter(Loader(Numbers(23), batch_size=4, workers=1))
        next(batches)
        worker, = multiprocessing.active_children()
        # From another process, since they heed this one.
        for name in ("-TERM", "-INT"):
            subprocess.run(["kill", name, str(worker.pid)], check=True)
        self.assertEqual(len(list(batches)), 4)
        batches = iter(Loader(Numbers(23), batch_size=4, workers=1))
        next(batches)
        worker, = multiprocessing.active_children()
        worker.terminate()
        worker.join()
        self.assertEqual(worker.exitcode, 0)
        with self.assertRaisesRegex(RuntimeError, "worker .* exited"):
            list(batches)

    def test_workers_change_nothing(self) -> None:
        alone = rest(Loader(Numbers(23), batch_size=4))
        state = torch.get_rng_state()
        found = rest(Loader(Numbers(23), batch_size=4, workers=2))
        self.assertEqual(found, alone)
        self.assertTrue(torch.equal(state, torch.get_rng_state()))


class TestShares(unittest.TestCase):

    @settings(deadline=None, max_examples=60)
    @given(st.integers(1, 60),
           st.sampled_from([(4, 1), (4, 2), (4, 4), (6, 3), (12, 4)]))
    def test_shares_make_up_the_global_batch(self, extra: int,
                                             shape: tuple[int, int]) -> None:
        size, count = shape
        whole = rest(Loader(Numbers(size + extra), batch_size=size))
        parts = [[
            b["x"].flatten().tolist()
            for b in Loader(Numbers(size +
                                    extra), batch_size=size).rows(i, count)
        ] for i in range(count)]
        joined = [
            list(itertools.chain(*rows)) for rows in zip(*parts, strict=True)
        ]
        self.assertEqual(joined, whole)

    def test_a_share_of_several_parts(self) -> None:
        loader = Loader(Numbers(16), batch_size=8)
        whole = rest(loader)
        parts = [[
            b["x"].flatten().tolist()
            for b in Loader(Numbers(16), batch_size=8).rows(*part)
        ] for part in ((0, 4, 3), (3, 4, 1))]
        self.assertEqual([[len(rows) for rows in p] for p in parts],
                         [[6, 6], [2, 2]])
        self.assertEqual([a + b for a, b in zip(*parts, strict=True)], whole)
        with self.assertRaisesRegex(ValueError, "no part 4 of 4"):
            loader.rows(3, 4, 2)

    def test_a_batch_that_does_not_divide(self) -> None:
        loader = Loader(Numbers(8), batch_size=3, drop_last=False)
        with self.assertRaisesRegex(ValueError, "3 rows can't be divided "
                                    "among 2 ranks"):
            list(loader.rows(0, 2))
        with self.assertRaisesRegex(ValueError, "no part 2 of 2"):
            loader.rows(2, 2)


class TestState(unittest.TestCase):

    @settings(deadline=None, max_examples=60)
    @given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 12),
           st.booleans())
    def test_resumed_equals_uninterrupted(self, extra: int, size: int,
                                          stop: int, drop: bool) -> None:

        def made() -> Loader:
            return Loader(Numbers(size + extra),
                          batch_size=size,
                          drop_last=drop)

        def stream(loader: Loader, count: int) -> list[list[int]]:
            found: list[list[int]] = []
            while len(found) < count:
                for batch in loader:
                    found.append(batch["x"].flatten().tolist())
                    if len(found) == count:
                        break
            return found

        whole = stream(made(), stop + 15)
        first, second = made(), made()
        self.assertEqual(stream(first, stop), whole[:stop])
        second.load_state_dict(first.state_dict())
        self.assertEqual(stream(second, 15), whole[stop:])

    def test_another_batch_size_goes_on_at_the_same_sample(self) -> None:
        first = Loader(Numbers(12), batch_size=4)
        next(iter(first))
        second = Loader(Numbers(12), batch_size=2)
        second.load_state_dict(first.state_dict())
        order = sum(rest(Loader(Numbers(12), batch_size=4)), [])
        self.assertEqual(sum(rest(second), []), order[4:])

    def test_another_order_is_refused(self) -> None:
        state = Loader(Numbers(12), batch_size=4).state_dict()
        with self.assertRaisesRegex(ValueError, "saved with seed 0, but has "
                                    "3"):
            Loader(Numbers(12), batch_size=4, seed=3).load_state_dict(state)
        with self.assertRaisesRegex(ValueError, "length 12, but has 13"):
            Loader(Numbers(13), batch_size=4).load_state_dict(state)
        with self.assertRaisesRegex(ValueError, "no loader's state"):
            Loader(Numbers(12), batch_size=4).load_state_dict({"epoch": 1})

    def test_an_iteration_that_was_left_behind(self) -> None:
        loader = Loader(Numbers(12), batch_size=4)
        batches = iter(loader)
        next(batches)
        loader.load_state_dict(loader.state_dict())
        with self.assertRaisesRegex(RuntimeError, "start a new one"):
            next(batches)
        early, late = iter(loader), iter(loader)
        next(late)
        with self.assertRaisesRegex(RuntimeError, "start a new one"):
            next(early)
        with self.assertRaisesRegex(RuntimeError, "start a new one"):
            for _ in loader:
                loader.load_state_dict(loader.state_dict())


class TestAugmented(unittest.TestCase):

    def test_samples_depend_on_seed_epoch_and_index_alone(self) -> None:
        self.assertIsInstance(Noise(), Augmented)
        loader = Loader(Noise(), batch_size=4)
        first = torch.cat([b["x"] for b in loader])
        second = torch.cat([b["x"] for b in loader])
        parts = [
            torch.cat(
                [b["x"] for b in Loader(Noise(), batch_size=4).rows(i, 2)])
            for i in range(2)
        ]
        self.assertEqual({tuple(r)
                          for r in first.tolist()},
                         {tuple(r)
                          for r in torch.cat(parts).tolist()})
        self.assertFalse({tuple(r)
                          for r in first.tolist()}
                         & {tuple(r)
                            for r in second.tolist()})
        self.assertEqual(len({tuple((r % 1).tolist()) for r in first}), 8)


class TestRefusals(unittest.TestCase):

    def test_sizes(self) -> None:
        with self.assertRaisesRegex(ValueError, "batch_size must be a number "
                                    "from 1"):
            Loader(Numbers(3), batch_size=0)
        with self.assertRaisesRegex(ValueError, "3 samples, which make no "
                                    "batch of 4"):
            Loader(Numbers(3), batch_size=4)

    def test_samples_of_several_shapes(self) -> None:
        with self.assertRaisesRegex(ValueError, "samples of one batch differ"):
            list(Loader(Ragged(4), batch_size=2))


class TestBuild(unittest.TestCase):
    CONFIG = {
        "kind": "random_tokens",
        "sequence_length": 6,
        "vocabulary_size": 9,
        "batch_size": 4
    }

    def test_options_go_where_they_belong(self) -> None:
        loader = build({**self.CONFIG, "seed": 5, "length": 9})
        self.assertEqual((loader.seed, loader.len_batches), (5, 2))
        batch = next(iter(loader))
        self.assertEqual(sorted(batch), ["labels", "tokens"])
        self.assertEqual(tuple(batch["tokens"].shape), (4, 6))

    def test_names(self) -> None:
        names = {"tokens": "input_ids"}
        batch = next(iter(build({**self.CONFIG, "names": names})))
        self.assertEqual(sorted(batch), ["input_ids", "labels"])
        with self.assertRaisesRegex(ValueError, "names has 'ids'"):
            next(iter(build({**self.CONFIG, "names": {"ids": "x"}})))

    def test_left_out(self) -> None:
        batch = next(iter(build({**self.CONFIG, "names": {"labels": None}})))
        self.assertEqual(sorted(batch), ["tokens"])

    def test_errors_name_the_option(self) -> None:
        with self.assertRaisesRegex(ValueError, "did you mean "
                                    "random_tokens"):
            build({"kind": "random_token"})
        with self.assertRaisesRegex(
                ValueError, "no option 'batchsize'; did "
                "you mean batch_size"):
            build({**self.CONFIG, "batchsize": 3})
        with self.assertRaisesRegex(ValueError, "needs the option "
                                    "'vocabulary_size'"):
            build({"kind": "random_tokens", "sequence_length": 3})

    def test_images(self) -> None:
        batch = next(
            iter(
                build({
                    "kind": "random_images",
                    "shape": [1, 4, 4],
                    "batch_size": 3
                })))
        self.assertEqual(tuple(batch["images"].shape), (3, 1, 4, 4))
        self.assertEqual(batch["labels"].dtype, torch.int64)


if __name__ == "__main__":
    unittest.main()
