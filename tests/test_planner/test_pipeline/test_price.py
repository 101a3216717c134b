"""What a pipeline's step takes, by what the runtime does in which order."""

from __future__ import annotations

import dataclasses
import functools
import unittest

import torch
from torch import nn

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster import axis_link
from planner.cluster.axis import AxisInfo
from planner.cost.roofline import memory_time_s
from planner.cost.stage_time import sums_s
from planner.cost.timeline import Streams
from planner.explain.causes import parts
from planner.ir.layout import S
from planner.ir.mesh import MeshSpec
from planner.pipeline.alike import shape_of
from planner.pipeline.build import Pipelined, pipelined
from planner.pipeline.means import count_ahead
from planner.pipeline.messages import Messages
from planner.pipeline.price import PipelinePrice, pipeline_price
from planner.pipeline.stage_cost import stage_cost, stage_costs
from planner.planning import Planning
from planner.recipes import RECIPES
from planner.schedule.named import make_schedule
from planner.schedule.simulation import simulate
from planner.schedule.times import StageTimes
from tests.test_planner.test_planning.programs import slow_cluster

_WIDTH, _PARTS = 64, 4
_WEIGHT_BYTES = 4 * _WIDTH**2
_NONE = Messages(value_bytes={}, gradient_bytes={}, time_s={}, occupancy_s={})


class _Row(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x.square().mean()


@functools.cache
def _planning() -> Planning:
    program = capture(_Row(), (torch.zeros(64, _WIDTH), ))
    return Planning(program, slow_cluster(4, 1e9))


def _candidate(recipe: str | None, axis: str = "dp") -> Candidate:
    chosen = RECIPES["pipeline"](schedule="1f1b", microbatches=_PARTS)
    if recipe is None:
        return _planning().from_recipe(chosen, MeshSpec(("pp", ), (2, )))
    return _planning().from_recipe(chosen * RECIPES[recipe](),
                                   MeshSpec(("pp", axis), (2, 2)))


def _step(recipe: str | None, axis: str = "dp") -> PipelinePrice:
    step = _candidate(recipe, axis).step
    assert step is not None
    return step


def _pipelined(recipe: str | None = None) -> Pipelined:
    candidate = _candidate(recipe)
    assert candidate.pipeline is not None
    return pipelined(_planning().program, candidate.layout, candidate.pipeline)


def _link() -> AxisInfo:
    """Between its stages."""
    return axis_link(_planning().cluster, (1, 2, 1), 1)


class TestStage(unittest.TestCase):

    def test_what_all_ranks_compute_before_is_theirs(self) -> None:
        """Of the loss' count over both replicas, which a mean divides by."""

        class Counted(_Row):

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                found = super().forward(x)
                return found * (x > 0).sum() / x.numel()

        planning = Planning(capture(Counted(), (torch.zeros(64, _WIDTH), )),
                            slow_cluster(4, 1e9))
        chosen = RECIPES["pipeline"](schedule="1f1b", microbatches=_PARTS)
        mesh = MeshSpec(("pp", "dp"), (2, 2))
        found = planning.from_recipe(chosen * RECIPES["ddp"](), mesh).step
        assert found is not None
        cost = planning.tables(MeshSpec(("dp", ), (2, )), mesh).cost
        self.assertEqual(_step("ddp").around_s, 0.0)
        self.assertGreater(found.around_s,
                           cost.collective_s("all_reduce", 8, 0))

    def test_without_other_axes_nothing_moves(self) -> None:
        step = _step(None)
        self.assertEqual(step.begin_s, (0.0, 0.0))
        self.assertEqual(step.finish_s, (0.0, 0.0))
        # The loss is there before the first stage's last backward ends.
        self.assertAlmostEqual(step.step_s, step.simulation.makespan_s)

    def test_replicas_reduce_in_a_bucket(self) -> None:
        # Two weights in one all-reduce, packed by a copy of each.
        step = _step("ddp")
        cost = _planning().tables(
            _candidate("ddp").layout.mesh, MeshSpec(("pp", "dp"), (2, 2))).cost
        size = 2 * _WEIGHT_BYTES
        wanted_s = (cost.collective_s("all_reduce", size, 0) +
                    memory_time_s(2 * size, cost.device, kernels=2) +
                    2 * cost.device.launch_overhead_s)
        for finish_s in step.finish_s:
            self.assertAlmostEqual(finish_s, wanted_s)
        self.assertEqual(step.begin_s, (0.0, 0.0))

    def test_shards_that_stay_are_gathered_first(self) -> None:
        step = _step("zero1")
        self.assertGreater(min(step.begin_s), 0.0)
        self.assertGreater(min(step.finish_s), 0.0)

    def test_shards_that_are_gathered_again_are_so_in_each_micro_batch(
            self) -> None:
        kept, again = _step("zero1"), _step("fsdp")
        self.assertEqual(again.begin_s, (0.0, 0.0))
        for one, other in zip(kept.stages, again.stages, strict=True):
            self.assertLess(one.forward_s, other.forward_s)
            self.assertLess(one.input_s + one.weight_s,
                            other.input_s + other.weight_s)

    def test_hosts_that_compute_send(self) -> None:
        """Each action of both stages has one message, weights' have none."""
        step = _step(None)
        slower = pipeline_price(_pipelined(),
                                step.stages,
                                step.schedule,
                                _link(),
                                host_s=1.0)
        for rank in (0, 1):
            with_s, without_s = (p.simulation.makespan_s -
                                 p.simulation.idle_s[rank]
                                 for p in (slower, step))
            self.assertAlmostEqual(with_s - without_s, 2.0 * _PARTS)

    def test_hosts_that_compute_run_each_action(self) -> None:
        """A forward and a backward of each micro-batch; a second more of both
        is one more until the last stage has begun, then two a micro-batch,
        and one until the first is done."""
        step, found, link = _step(None), _pipelined(), _link()
        slower, slowest = (pipeline_price(found,
                                          step.stages,
                                          step.schedule,
                                          link,
                                          streams=Streams(action_s=s))
                           for s in (1.0, 2.0))
        for rank in (0, 1):
            with_s, without_s = (p.simulation.makespan_s -
                                 p.simulation.idle_s[rank]
                                 for p in (slower, step))
            self.assertAlmostEqual(with_s - without_s, 2.0 * _PARTS)
        self.assertAlmostEqual(
            slowest.simulation.makespan_s - slower.simulation.makespan_s,
            1.0 + 2.0 * _PARTS + 1.0)

    def test_gradients_of_weights_apart_are_actions_too(self) -> None:
        times = StageTimes.in_parts([1.0], [2.0], [3.0], apart_s=0.5)
        self.assertEqual(
            (times.forward_s, times.backward_s, times.input_s, times.weight_s),
            ((1.0, ), (5.0, ), (2.0, ), (3.5, )))

    def test_ranks_of_other_hosts_leave_no_processors(self) -> None:
        step, found, link = _step(None), _pipelined(), _link()
        near, apart = (pipeline_price(found,
                                      step.stages,
                                      step.schedule,
                                      dataclasses.replace(link, apart=apart),
                                      streams=Streams(alone_speedup=2.0))
                       for apart in (False, True))
        self.assertLess(near.step_s, step.step_s)
        self.assertEqual(apart.step_s, step.step_s)

    def test_messages_of_one_direction_follow_each_other(self) -> None:
        """A link that takes longer for a message than a stage does for its
        micro-batch sends all of them, one after the other, both ways."""
        step, found, link = _step(None), _pipelined(), _link()
        narrow = dataclasses.replace(link.link, bandwidth_bytes_per_s=1e3)
        schedule = make_schedule("gpipe", ranks=2, microbatches=_PARTS)
        slow = pipeline_price(
            found, step.stages, schedule,
            dataclasses.replace(link, link=narrow, point=narrow))
        (message_s, ) = slow.messages.time_s.values()
        self.assertGreater(slow.simulation.makespan_s,
                           2 * _PARTS * message_s * 0.99)

    def test_ranks_wait_for_the_last_once_a_step(self) -> None:
        step, found, link = _step(None), _pipelined(), _link()
        busy_s = step.simulation.makespan_s - step.bubble_s
        for limit_s in (busy_s, busy_s / 8):
            apart = pipeline_price(found,
                                   step.stages,
                                   step.schedule,
                                   link,
                                   streams=Streams(straggling=0.25,
                                                   straggling_limit_s=limit_s))
            late_s = min(busy_s / 4, limit_s)
            self.assertAlmostEqual(apart.step_s - step.step_s, late_s)
            self.assertAlmostEqual(
                apart.overlap.straggling_s - step.overlap.straggling_s, late_s)

    def test_late_ranks_of_shared_processors_are_those_of_the_simulation(
            self) -> None:
        shared = Streams(straggling=0.25,
                         straggling_limit_s=1.0,
                         alone_speedup=2.0)
        for recipe, is_late in ((None, False), ("ddp", True)):
            with self.subTest(recipe):
                step = _step(recipe)
                found = pipeline_price(_pipelined(recipe),
                                       step.stages,
                                       step.schedule,
                                       _link(),
                                       streams=shared)
                self.assertEqual(found.late_s > 0.0, is_late)

    def test_what_is_exposed_has_names(self) -> None:
        candidate = _candidate("megatron", "tp")
        found, price = candidate.price.step, candidate.price
        assert found is not None
        self.assertEqual(found.time_s, _step("megatron", "tp").step_s)
        (axis, (moved_s, exposed_s)), = [
            item for item in found.by_axis().items() if item[0] == "tp"
        ]
        self.assertAlmostEqual(moved_s, price.by_axis()[axis][1])
        self.assertGreater(exposed_s, 0.0)
        self.assertLessEqual(exposed_s, moved_s)
        # Half of what both stages reduce, the mean of the ranks.
        candidate = _candidate("ddp")
        assert candidate.price.step is not None
        sums = [
            e for e in candidate.price.step.exposures if e.where == "gradients"
        ]
        self.assertEqual([(e.value, e.count) for e in sums], [("2 packed", 1)])
        self.assertAlmostEqual(
            sum(e.time_s for e in sums),
            _planning().tables(candidate.layout.mesh,
                               MeshSpec(
                                   ("pp", "dp"), (2, 2))).cost.collective_s(
                                       "all_reduce", 2 * _WEIGHT_BYTES, 0))

    def test_a_micro_batch_s_gradients_lie_beside_the_sums(self) -> None:
        memory = _step(None).stages[0].memory
        self.assertEqual(memory.gradients, 2 * _WEIGHT_BYTES)
        self.assertGreaterEqual(memory.transient, _WEIGHT_BYTES)

    def test_gradients_of_micro_batches_are_added(self) -> None:
        # Of each of two weights the gradient and the sum are read, the sum
        # is written.
        candidate = _candidate(None)
        assert candidate.pipeline is not None
        stage = pipelined(_planning().program, candidate.layout,
                          candidate.pipeline).stages[0]
        device = _planning().cluster.device
        self.assertAlmostEqual(
            sums_s(stage.program, stage.layout, device),
            memory_time_s(2 * 3 * _WEIGHT_BYTES, device, kernels=2) +
            2 * device.launch_overhead_s)


class TestAlike(unittest.TestCase):

    def test_stages_in_the_middle_are_priced_once(self) -> None:
        model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU())
                                for _ in range(8)))
        program = count_ahead(
            capture(model, (torch.zeros(64, 8), ),
                    loss_fn=lambda y: y.square().mean()))
        planning = Planning(program, slow_cluster(4, 1e9))
        candidate = planning.from_recipe(
            RECIPES["pipeline"](schedule="1f1b", microbatches=_PARTS),
            MeshSpec(("pp", ), (4, )))
        assert candidate.pipeline is not None
        found = pipelined(planning.program, candidate.layout,
                          candidate.pipeline)
        cost = planning.tables(candidate.layout.mesh, MeshSpec(("pp", ),
                                                               (4, ))).cost
        costs = stage_costs(found, [cost] * 4, optimizer="adamw")
        self.assertEqual(len({id(c) for c in costs}), 3)
        self.assertIs(costs[1], costs[2])
        alone = [
            stage_cost(s, found.program, cost, "adamw", {})
            for s in found.stages
        ]
        self.assertEqual(list(costs), alone)
        # Other sizes, or another place of the parameters, are others.
        last = found.stages[-1]
        rest = dict(last.layout.at_rest)
        rest[last.params[0]] = tuple(S(0) for _ in rest[last.params[0]])
        moved = dataclasses.replace(last,
                                    layout=dataclasses.replace(last.layout,
                                                               at_rest=rest))
        self.assertNotEqual(shape_of(moved, None), shape_of(last, None))


class TestMessages(unittest.TestCase):
    """What stages send each other, of the mean rank."""

    def test_values_and_gradients_are_sent_for_each_micro_batch(self) -> None:
        step, rows = _step(None), 64 // _PARTS
        (message_s, ) = step.messages.time_s.values()
        sent = step.sent("pp")
        self.assertEqual((sent.kind, sent.axis), ("send", "pp"))
        self.assertEqual(sent.count, _PARTS)  # both ways, of two ranks
        self.assertEqual(sent.size_bytes, 4 * rows * _WIDTH)
        self.assertAlmostEqual(sent.time_s, _PARTS * message_s)

    def test_exposed_is_what_quicker_links_would_save(self) -> None:
        """The first value is waited for, and the last gradient; of those in
        between at most all."""
        step = _step(None)
        (message_s, ) = step.messages.time_s.values()
        exposed_s = step.sent("pp").exposed_s
        self.assertGreaterEqual(exposed_s, 2 * message_s * 0.999)
        self.assertLessEqual(exposed_s, 2 * _PARTS * message_s)
        quick = simulate(step.schedule, step.times, p2p_s=0.0)
        self.assertAlmostEqual(step.simulation.makespan_s - exposed_s,
                               quick.makespan_s)

    def test_stages_of_one_rank_send_nothing(self) -> None:
        messages = _step(None).messages
        self.assertEqual(messages.sent((0, 0), _PARTS), (0, 0, 0.0))

    def test_parts_of_a_step_say_what_ranks_do(self) -> None:
        """Copies, and adding up gradients, are work; what is left beside the
        bubble is what is done once, and not in it."""
        for recipe in (None, "megatron"):
            candidate = _candidate(recipe, "tp")
            step, found = candidate.step, parts(candidate)
            assert step is not None
            self.assertAlmostEqual(sum(found.values()), candidate.time_s)
            sums = sum(s.sums_s for s in step.stages)
            added_s = (_PARTS - 1) * sums / 2
            self.assertGreaterEqual(found["local copies"], added_s * 0.999)
            beyond_s = (step.once_s - step.around_s - step.late_s -
                        (sum(step.begin_s) + sum(step.finish_s)) / 2)
            self.assertAlmostEqual(found["uneven ranks"], max(0.0, beyond_s))
            self.assertAlmostEqual(
                found["bubble"],
                step.bubble_s - step.exposed_messages_s + min(0.0, beyond_s))
            self.assertGreater(found["communication pp"], 0.0)


class TestOnce(unittest.TestCase):
    """Gathers and reductions lie in the bubbles where these are."""

    def _price(self, begin_s: tuple[float, float],
               finish_s: tuple[float, float]) -> PipelinePrice:
        schedule = make_schedule("1f1b", ranks=2, microbatches=2)
        times = StageTimes.in_parts([1.0, 1.0], [1.0, 1.0], [1.0, 1.0])
        # 0F0 0F1 0B0 0B1 end at 9, 1F0 1B0 1F1 1B1 run from 1 to 7.
        return PipelinePrice(stages=(),
                             schedule=schedule,
                             simulation=simulate(schedule, times),
                             begin_s=begin_s,
                             finish_s=finish_s,
                             around_s=0.0,
                             memory=(),
                             times=times,
                             messages=_NONE)

    def test_spans(self) -> None:
        price = self._price((0.0, 0.0), (0.0, 0.0))
        self.assertEqual(price.step_s, 9.0)
        self.assertEqual([price.start_s(r) for r in (0, 1)], [0.0, 1.0])
        self.assertEqual(price.reductions(), [(0, 9.0, 9.0), (1, 7.0, 7.0)])

    def test_the_last_stage_reduces_while_the_first_works(self) -> None:
        self.assertEqual(self._price((0.0, 0.0), (0.0, 2.0)).once_s, 0.0)
        self.assertEqual(self._price((0.0, 0.0), (0.0, 3.0)).once_s, 1.0)
        self.assertEqual(self._price((0.0, 0.0), (3.0, 3.0)).once_s, 3.0)

    def test_a_stage_reduces_while_its_rank_runs_another(self) -> None:
        schedule = make_schedule("interleaved1f1b",
                                 ranks=2,
                                 microbatches=2,
                                 chunks=2)
        times = StageTimes.in_parts([1.0] * 4, [1.0] * 4, [1.0] * 4)
        price = PipelinePrice(stages=(),
                              schedule=schedule,
                              simulation=simulate(schedule, times),
                              begin_s=(0.0, 0.0),
                              finish_s=(1.0, 0.0, 2.0, 0.0),
                              around_s=0.0,
                              memory=(),
                              times=times,
                              messages=_NONE)
        by_stage = {stage: span for stage, *span in price.reductions()}
        # Stages 2 and 0 are on one rank, whose last action is of stage 0.
        end_s = price.simulation.makespan_s
        self.assertEqual(by_stage[0], [end_s, end_s + 1.0])
        self.assertLessEqual(by_stage[2][1], end_s)
        self.assertEqual(price.once_s, 1.0)

    def test_the_last_stage_gathers_while_it_waits(self) -> None:
        self.assertEqual(self._price((0.0, 1.0), (0.0, 0.0)).delay_s, 0.0)
        self.assertEqual(self._price((0.0, 1.5), (0.0, 0.0)).delay_s, 0.5)
        self.assertEqual(self._price((2.0, 2.0), (0.0, 0.0)).once_s, 2.0)


if __name__ == "__main__":
    unittest.main()
