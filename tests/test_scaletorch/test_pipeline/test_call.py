"""A pipelined module in a training loop."""

from __future__ import annotations

import copy
import tempfile
import unittest
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.nn import functional as F

import scaletorch
from planner.ir.plan import Plan
from planner.recipes import RECIPES
from scaletorch.runtime.ranks import run_ranks
from tests.test_planner.test_pipeline.models import Plain, Row
from tests.test_scaletorch.small import check_same, seeded, spread, whole

_PIPELINE = RECIPES["pipeline"]
_PLAN = _PIPELINE(microbatches=2)
_STAGES = {"pp": 2}


class Trained(nn.Module):
    """A row of layers that returns its loss and what it found."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.row = Row()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor,
                y: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.dropout(self.row(x))
        return {"loss": F.mse_loss(found, y), "found": found}


class Idle(Trained):
    """Has a gate that gets no gradient and a head that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 8)
        self.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor,
                y: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().forward(x * self.gate(x).detach(), y)


class _Noise(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = F.dropout(self.weight.expand_as(x), 0.5)
        return torch.tanh(x) + drawn, drawn


class Drawing(nn.Module):
    """Two layers alike that tell what they drew."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Noise() for _ in range(2))

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        drawn = []
        for layer in self.layers:
            x, own = layer(x)
            drawn.append(own)
        return {"loss": (x**2).mean(), "drawn": drawn}


def rows(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    x, y = torch.randn(2, count, 8, dtype=torch.float64, generator=generator)
    return x, y


class Repeating(Trained):
    """Returns values at several places, as logs and lists of states do."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        found = super().forward(x, y)
        return {
            **found, "log": found["loss"].detach(),
            "states": [found["found"]]
        }


def on_stages(body: Callable[[Any], Any],
              plan: Any = _PLAN,
              **options: Any) -> list[Any]:
    """What a body finds on both ranks."""
    model = seeded(Trained)
    return run_ranks(
        2, lambda rank: body(spread(model, rows(), _STAGES, plan, **options)))


class TestLoop(unittest.TestCase):

    def check(self, body: Callable[[nn.Module], dict[str, Any]]) -> None:
        check_same(self, seeded(Trained), rows(), body, _STAGES, _PLAN)

    def test_norm_of_all_gradients(self) -> None:

        def body(module: nn.Module) -> dict[str, Any]:
            for _ in range(2):
                (module(*rows())["loss"] / 2).backward()
            norm = scaletorch.clip_grad_norm_(module.parameters(), 0.1)
            again = scaletorch.clip_grad_norm_(module.parameters(), 1.0)
            return {"norm": whole(norm), "again": whole(again)}

        self.check(body)

    def test_parameters_without_gradients(self) -> None:

        def body(model: nn.Module) -> dict[str, Any]:
            model(*rows())["loss"].backward()
            held = dict(model.named_parameters())
            return {
                "head":
                whole(held["head.weight"]),
                "none":
                held["head.weight"].grad is None,
                "gate":
                "gate.weight" not in held or held["gate.weight"].grad is None
            }

        check_same(self, seeded(Idle), rows(), body, _STAGES, _PLAN)

    def test_values_at_several_places(self) -> None:

        def body(module: nn.Module) -> dict[str, Any]:
            options = {} if isinstance(module, Repeating) else {
                "outputs": "global"
            }
            found = module(*rows(), **options)
            found["loss"].backward()
            norm = scaletorch.clip_grad_norm_(module.parameters(), 1e3)
            (state, ) = found.pop("states")
            return found | {"state": state, "norm": whole(norm)}

        check_same(self, seeded(Repeating), rows(), body, _STAGES, _PLAN)

    def test_batches_that_do_not_divide(self) -> None:

        def body(module: nn.Module) -> dict[str, Any]:
            found = {}
            for count in (6, 5):
                loss = module(*rows(count))["loss"]
                loss.backward()
                norm = scaletorch.clip_grad_norm_(module.parameters(), 1e3)
                found |= {f"{count}": loss.detach(), f"|{count}|": whole(norm)}
            with torch.no_grad():
                return found | {"1": module(*rows(1))["loss"]}

        plan = _PIPELINE("interleaved1f1b", microbatches=4, chunks=2)
        check_same(self, seeded(Trained), rows(), body, {
            "dp": 2,
            "pp": 2
        }, plan * RECIPES["fsdp"]())

    def test_without_gradients_every_rank_gets_all_outputs(self) -> None:

        def body(module: nn.Module) -> dict[str, Any]:
            with torch.no_grad():
                found = module(*rows())
            module.eval()
            return {"found": found["found"], "loss": module(*rows())["loss"]}

        self.check(body)

    def test_smaller_batch_and_no_number(self) -> None:

        def body(module: nn.Module) -> dict[str, Any]:
            x, y = rows()
            small = module(x[:4], y[:4])["loss"].detach()
            module(x * float("nan"), y)["loss"].backward()
            module.zero_grad()
            after = module(x, y)["loss"]
            after.backward()
            return {"small": small, "after": after.detach()}

        self.check(body)

    def test_scaled_loss(self) -> None:

        def body(module: nn.Module) -> dict[str, Any]:
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            norms = []
            for _ in range(3):
                scaler.scale(module(*rows())["loss"]).backward()
                scaler.unscale_(optimizer)
                norms.append(
                    whole(scaletorch.clip_grad_norm_(module.parameters(),
                                                     1e9)))
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            return {"norms": torch.stack(norms)}

        self.check(body)

    def test_outputs_while_training(self) -> None:
        found = on_stages(lambda m: (m(*rows())["found"],
                                     m(*rows(), outputs="global")["found"]))
        expected = seeded(Trained)(*rows())["found"]
        for short, full in found:
            for use in (lambda x: x.argmax(-1), lambda x: x[0], torch.argmax,
                        lambda x: x * 2, bool):
                with self.assertRaisesRegex(RuntimeError, 'outputs="global"'):
                    use(short)
            self.assertEqual(repr(copy.copy(short)), repr(short))
            torch.testing.assert_close(full, expected)

    def test_autocast(self) -> None:

        def body(module: nn.Module) -> dict[str, Any]:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = module(*(x.float() for x in rows()))["loss"]
            loss.backward()
            return {"loss": loss.detach()}

        check_same(self,
                   seeded(Trained).float(),
                   tuple(x.float() for x in rows()),
                   body,
                   _STAGES,
                   _PLAN,
                   close=1e-2)


class TestDropout(unittest.TestCase):

    def test_gradients_follow_the_mask_of_the_forward(self) -> None:
        model = seeded(lambda: Trained(dropout=0.5))

        def work(rank: int) -> Any:
            module = spread(model, rows(), _STAGES, _PLAN)
            found = module(*rows(), outputs="global")
            found["loss"].backward()
            name = "row.layers.3.down.bias"
            own = dict(module.named_parameters())
            grad = whole(own[name].grad) if name in own else None
            return rank, found["found"], grad

        ranks = run_ranks(2, work)
        found = ranks[0][1]
        kept = found != 0
        self.assertTrue(16 < int(kept.sum()) < 48)
        expected = (2 * (found - rows()[1]) / found.numel() * 2 * kept).sum(0)
        torch.testing.assert_close(ranks[1][2], expected)

    def test_layers_and_microbatches_draw_apart(self) -> None:
        model = seeded(Drawing)
        x, _ = rows()

        def work(rank: int) -> torch.Tensor:
            del rank
            module = spread(model, (x, ), _STAGES, _PLAN)
            drawn = module(x, outputs="global")["drawn"]
            return torch.stack([d > 0 for d in drawn])

        for found in run_ranks(2, work):
            # Of two layers, of two micro-batches.
            draws = found.unflatten(1, (2, 4)).flatten(0, 1).flatten(1)
            self.assertEqual(len(draws.unique(dim=0)), 4)


class TestChecked(unittest.TestCase):

    def test_verified_on_the_mesh(self) -> None:
        on_stages(lambda m: None, verify=True)

    def test_verified_by_simulation(self) -> None:
        plan = on_stages(lambda m: m.plan)[0]
        report = scaletorch.verify(seeded(Trained),
                                   plan,
                                   example_inputs=rows())
        self.assertTrue(report.equal, report)

    def test_plan_as_text(self) -> None:
        plan = on_stages(lambda m: m.plan)[0]
        again = Plan.from_yaml(plan.to_yaml())
        self.assertEqual(again, plan)
        losses = on_stages(lambda m: float(m(*rows())["loss"].detach()), again)
        self.assertAlmostEqual(
            losses[0], float(seeded(Trained)(*rows())["loss"].detach()))


class TestErrors(unittest.TestCase):

    def test_the_same_on_every_rank(self) -> None:
        cases = {
            "named 'nope'": _PIPELINE(microbatches=2, cuts=("nope", )),
            "no schedule 'foo'": _PIPELINE("foo", microbatches=2),
            "two stages on each rank": _PIPELINE("zbv", microbatches=2),
            "into 3 micro-batches": _PIPELINE(microbatches=3),
        }
        for text, plan in cases.items():
            with self.subTest(text):
                for error in run_ranks(2, lambda rank: _error(plan)):
                    self.assertIn(text, error)


def _error(plan: Any) -> str:
    try:
        spread(seeded(Trained), rows(), _STAGES, plan)
    except ValueError as error:
        return str(error)
    return ""


class TestCheckpoint(unittest.TestCase):

    def test_loads_under_another_cut_and_without_a_pipeline(self) -> None:
        first = _PIPELINE(microbatches=2, cuts=("row.layers.1", ))
        other = _PIPELINE(microbatches=2, cuts=("row.layers.3", ))
        with tempfile.TemporaryDirectory() as folder:

            def save(module: nn.Module) -> dict[str, torch.Tensor]:
                with torch.no_grad():
                    for parameter in module.parameters():
                        parameter.add_(1.0)
                dcp.save(module.state_dict(), checkpoint_id=folder)
                return _state(module)

            def load(module: nn.Module) -> dict[str, torch.Tensor]:
                scaletorch.load_checkpoint(module, folder)
                return _state(module)

            saved: dict[str, torch.Tensor] = {}
            for part in on_stages(save, first):
                saved |= part
            for plan in (other, RECIPES["ddp"]()):
                axes = _STAGES if plan is other else {"dp": 2}
                parts = run_ranks(
                    2, lambda rank: load(
                        spread(seeded(Trained), rows(), axes, plan)))
                self.assertEqual(set().union(*parts), set(saved))
                for part in parts:
                    for name, tensor in part.items():
                        torch.testing.assert_close(tensor, saved[name])

    def test_whole_state_dict(self) -> None:
        state = seeded(Trained).state_dict()
        state = {n: t + 1.0 for n, t in state.items()}

        def body(module: nn.Module) -> dict[str, torch.Tensor]:
            module.load_state_dict(state)
            return _state(module)

        for part in on_stages(body):
            self.assertTrue(part)
            for name, tensor in part.items():
                torch.testing.assert_close(tensor, state[name])


class TestMeta(unittest.TestCase):

    def test_initialised_alike_for_any_cut(self) -> None:
        with torch.device("meta"):
            model = Plain().double()
        found = []
        for cut in ("glue.0:b.linear", "glue.0:d.linear"):
            plan = _PIPELINE(microbatches=2, cuts=(cut, ))

            def work(rank: int, plan: Any = plan) -> dict[str, torch.Tensor]:
                if rank >= 0:
                    torch.manual_seed(3)
                return _state(
                    spread(model, rows(), _STAGES, plan, loss_fn=F.mse_loss))

            parts = run_ranks(2, work)
            found.append(parts[0] | parts[1])
        self.assertEqual(set(found[0]), set(model.state_dict()))
        for name, tensor in found[0].items():
            torch.testing.assert_close(tensor, found[1][name])


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: whole(p) for n, p in module.named_parameters()}


if __name__ == "__main__":
    unittest.main()
