"""A parallel module behaves like the model it was made of."""

from __future__ import annotations

import copy
import pickle
import unittest
from typing import Any

import torch
from torch import nn

from scaletorch import parallel
from tests.model_zoo import MODELS
from tests.test_scaletorch.small import (Mlp, TiedLM, batch, check_same, ids,
                                         on_ranks, seeded, whole)


def message(call: Any) -> str:
    """The error that a call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def refused(model: nn.Module) -> dict[str, str]:
    """What a module can't do, and says so."""
    found = {"pickle": message(lambda: pickle.dumps(model))}
    loss = model(*batch())["loss"]
    loss.backward()
    found["twice"] = message(loss.backward)
    output = model(*batch())
    found["foreign"] = message(
        (output["loss"] + output["found"].sum()).backward)
    loss = model(*batch())["loss"]
    weight = model.get_parameter("up.weight")
    found["double"] = message(
        lambda: torch.autograd.grad(loss, [weight], create_graph=True))
    with torch.no_grad():
        weight.add_(1.0)
    found["changed"] = message(loss.backward)
    found["inputs"] = message(lambda: model(*batch(), inputs="whole"))
    found["arguments"] = message(lambda: model(batch()[0]))
    found["method"] = message(lambda: model.predict(batch()[0]))
    return found


def casts_and_modes(model: nn.Module) -> dict[str, Any]:
    """Autocast, other input dtypes, NaN, what is forwarded."""
    x, y = batch()
    found: dict[str, Any] = {}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x.float(), y.float())
    output["loss"].backward()
    found["cast loss"] = output["loss"].detach()
    found["cast dtype"] = output["found"].dtype
    found |= {f"cast {n}": whole(p.grad) for n, p in model.named_parameters()}
    model.zero_grad(set_to_none=False)
    found["zeroed"] = float(whole(next(model.parameters()).grad).sum())
    model(x.float() * float("nan"), y.float())["loss"].backward()
    found["nan"] = bool(whole(next(model.parameters()).grad).isnan().all())
    found["own attribute"] = model.dropout.p
    found["method"] = model.predict.__name__
    with torch.inference_mode():
        loss = model(x.float(), y.float())["loss"]
    found["inference"] = loss.clone()
    return found


class WithNone(nn.Module):
    """Returns None, constants and a nested tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self,
                x: torch.Tensor,
                *,
                flag: bool = True) -> tuple[Any, ...]:
        y = self.linear(x)
        return y, None, (y.argmax(-1), 7 if flag else 8)


def outputs(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for flag in (True, False):
        y, nothing, (best, number) = model(batch()[0], flag=flag)
        found |= {
            f"{flag} y": y.detach(),
            f"{flag} best": best,
            f"{flag} rest": (nothing, number)
        }
    x = batch()[0].requires_grad_()
    model(x)[0].square().sum().backward()
    return found | {"gradient of the input": x.grad}


def several_backwards(model: nn.Module) -> dict[str, Any]:
    """A gradient of each loss of one call, and the first one's again."""
    found, wanted = model(batch()[0]), batch()[1]
    losses = (found - wanted).square().mean(), found.sin().sum()
    grads: dict[str, Any] = {}
    for turn, loss in enumerate((*losses, losses[0])):
        model.zero_grad()
        loss.backward(retain_graph=turn < 2)
        grads |= {
            f"{turn} {n}": whole(p.grad)
            for n, p in model.named_parameters()
        }
    return grads


def one_loss_again(model: nn.Module) -> dict[str, Any]:
    """Gradients of a loss added to those that it left before."""
    loss = model(*batch())["loss"]
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)
    (3 * loss).backward()
    return {
        n: whole(p.grad)
        for n, p in model.named_parameters() if p.grad is not None
    }


class OwnNames(nn.Module):
    """Whose arguments have the names of our options."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor,
                outputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.project(inputs), outputs)


class TestModule(unittest.TestCase):

    def test_refusals(self) -> None:
        expected = {
            "pickle": "can't be pickled",
            "twice": "the backward pass of this call has run already",
            "foreign": "a gradient arrived at output",
            "double": "gradients of gradients",
            "changed": "parameter up.weight was changed in place",
            "inputs": 'inputs must be "global" or "local", got \'whole\'',
            "arguments": "missing a required argument: 'y'",
            "method": "Mlp.predict computes with parameters that are spread",
        }
        for found in on_ranks(seeded(Mlp), batch(), refused, {"dp": 2},
                              parallel.fsdp()):
            for name, text in expected.items():
                self.assertIn(text, found[name], name)

    def test_casts_and_modes(self) -> None:
        torch.manual_seed(0)
        check_same(self,
                   Mlp(),
                   tuple(x.float() for x in batch()),
                   casts_and_modes, {"dp": 2},
                   parallel.fsdp(),
                   close=2e-2)

    def test_graphs_that_are_retained(self) -> None:

        def model() -> nn.Module:
            return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))

        check_same(self, seeded(model), (batch()[0], ), several_backwards,
                   {"dp": 2}, parallel.fsdp())
        expected = one_loss_again(seeded(Mlp))
        parts = on_ranks(seeded(Mlp), batch(), one_loss_again, {"pp": 2},
                         parallel.pipeline(microbatches=2))
        self.assertEqual({*parts[0], *parts[1]}, {*expected})
        for name, grad in (*parts[0].items(), *parts[1].items()):
            torch.testing.assert_close(grad, expected[name])

    def test_outputs(self) -> None:
        check_same(self, seeded(WithNone), (batch()[0], ), outputs, {"dp": 2},
                   parallel.ddp())

    def test_arguments_of_our_names(self) -> None:
        x, y = batch()
        inputs = {"inputs": x, "outputs": y}
        check_same(self, seeded(OwnNames), inputs,
                   lambda model: {"loss": model(**inputs).detach()}, {"dp": 2},
                   parallel.ddp())

    def test_loss_function(self) -> None:
        axes, plan = {"dp": 2}, parallel.fsdp()

        def loss_fn(logits: torch.Tensor,
                    target: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(logits.flatten(0, 1),
                                               target.flatten())

        def body(model: nn.Module) -> dict[str, Any]:
            loss = (loss_fn(model(ids()), ids())
                    if isinstance(model, TiedLM) else model(ids(), ids()))
            loss.backward()
            return {
                "loss": loss.detach(),
                "grad": whole(model.get_parameter("embed.weight").grad)
            }

        check_same(self,
                   seeded(TiedLM), (ids(), ids()),
                   body,
                   axes,
                   plan,
                   loss_fn=loss_fn)

    def test_loss_that_is_a_module(self) -> None:
        loss_fn = nn.MSELoss()

        def body(model: nn.Module) -> dict[str, Any]:
            x, y = batch()
            if isinstance(model, nn.Sequential):
                loss = loss_fn(model(x), y)
            else:
                loss = copy.deepcopy(model)(x, y)
            loss.backward()
            return {"loss": loss.detach(), "names": sorted(model.state_dict())}

        check_same(self,
                   seeded(lambda: nn.Sequential(nn.Linear(8, 4))),
                   batch(),
                   body, {"dp": 2},
                   parallel.ddp(),
                   loss_fn=loss_fn)

    def test_local_batches(self) -> None:
        expected = seeded(Mlp)
        expected(*batch())["loss"].backward()

        def body(model: Any) -> dict[str, Any]:
            place = model.mesh.get_coordinate()[0]
            shards = [x.chunk(2)[place] for x in batch()]
            output = model(*shards, inputs="local")
            output["loss"].backward()
            small = [x.chunk(2)[place] for x in batch(4)]
            return {
                "grad": whole(model.get_parameter("up.weight").grad),
                "small": model(*small, inputs="local")["loss"].detach()
            }

        for found in on_ranks(seeded(Mlp), batch(), body, {"dp": 2},
                              parallel.fsdp()):
            torch.testing.assert_close(found["grad"], expected.up.weight.grad)
            torch.testing.assert_close(found["small"],
                                       expected(*batch(4))["loss"].detach())

    def test_hugging_face(self) -> None:

        def body(model: nn.Module) -> dict[str, Any]:
            output = model(**inputs)
            output.loss.backward()
            return {
                "type": type(output).__name__,
                "keys": list(output),
                "logits": output.logits.detach(),
                "loss": output.loss.detach(),
                "config": model.config.vocab_size,
                "names": [n for n, _ in model.named_parameters()],
                "keys of state": list(model.state_dict())
            }

        model, inputs, _ = MODELS["gpt2"]()
        check_same(self,
                   model,
                   inputs,
                   body, {"dp": 2},
                   parallel.fsdp(),
                   close=1e-4)

    def test_load_state_dict(self) -> None:
        torch.manual_seed(1)
        other = Mlp().double()

        def work(model: Any) -> dict[str, Any]:
            model.load_state_dict(other.state_dict())
            again = {n: t.clone() for n, t in model.state_dict().items()}
            with torch.no_grad():
                model.get_parameter("up.weight").zero_()
            model.load_state_dict(again)
            return {n: whole(t) for n, t in model.state_dict().items()}

        for found in on_ranks(seeded(Mlp), batch(), work, {
                "dp": 2,
                "tp": 2
        },
                              parallel.fsdp() * parallel.megatron()):
            for name, value in other.state_dict().items():
                self.assertTrue(torch.equal(found[name], value), name)


class TestDropout(unittest.TestCase):

    def masks(self, plan: Any, **axes: int) -> list[dict[str, Any]]:

        def body(model: Any) -> dict[str, Any]:
            x = torch.ones(64, 8)
            model.train()
            trained = model(x)
            trained.sum().backward()
            model.eval()
            return {
                "mask": trained.detach(),
                "eval": model(x).detach(),
                "grad": whole(model.get_parameter("weight").grad)
            }

        return on_ranks(Dropped(), (torch.ones(64, 8), ), body, axes, plan)

    def test_shards_draw_their_own(self) -> None:
        found = self.masks(parallel.fsdp(), dp=2)
        mask = found[0]["mask"]
        self.assertTrue(torch.equal(mask, found[1]["mask"]))
        self.assertFalse(torch.equal(mask[:32], mask[32:]))
        self.assertEqual(sorted(set(mask.flatten().tolist())), [0.0, 2.0])
        self.assertAlmostEqual(float(mask.mean()), 1.0, delta=0.15)
        self.assertTrue(torch.equal(found[0]["eval"], torch.ones(64, 8)))
        # The backward of a gathered weight sees the mask of the forward.
        torch.testing.assert_close(found[0]["grad"], mask.sum(0))

    def test_replicas_draw_the_same(self) -> None:
        found = self.masks(parallel.megatron(), tp=2)
        self.assertTrue(torch.equal(found[0]["mask"], found[1]["mask"]))


class Dropped(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x * self.weight, 0.5, self.training)


if __name__ == "__main__":
    unittest.main()
