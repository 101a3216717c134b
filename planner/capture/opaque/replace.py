"""A module whose call is one operator while the model is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from planner.capture.attributes import Attributes
from planner.capture.autocast import ambient_autocast
from planner.capture.known_values import Examples
from planner.capture.opaque.call import (LEAF, Ended, NotIsolated, OpaqueCall,
                                         Settled, is_constant, is_plain,
                                         state_names)
from planner.capture.opaque.functions import Function, stands_in
from planner.capture.opaque.operator import OPAQUE, registered
from planner.capture.opaque.trial import Learnt, Work, try_out
from planner.capture.structures import flattened
from planner.rules.registry import TensorSpec
from planner.steady import STEADY

__all__ = ["Opaque", "replaced"]


class Opaque:
    """Stands in for one module of the model.

    Parameters
    ----------
    module : nn.Module
        Before anything is traced.
    path : str
        Of the module in the model, for messages.
    whole : bool
        Whether nothing of the model is left beside it.
    examples : sequence of Tensor, optional
        What the model is called with: values to try a whole model out on.
    examples_of : callable, optional
        Gives values of traced tensors, if they are known, to try it out on.
    """

    def __init__(
        self,
        module: nn.Module,
        path: str,
        *,
        whole: bool,
        examples: Sequence[torch.Tensor] = (),
        examples_of: Callable[[Sequence[torch.Tensor]], Examples] | None = None
    ) -> None:
        self.module = module
        self.path = path
        self.examples = tuple(examples) if whole else ()
        self.examples_of = examples_of
        self.before = Attributes(_holder(module))
        self.settled = Settled(module, whole=whole)
        self.state = state_names(self.settled.module)
        self.work = Work()
        self.real = False
        self.keys: set[str] = set()
        self._known: dict[Any, tuple[OpaqueCall, Work]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        changed = self.before.changed()
        if changed:
            raise NotIsolated(f"what runs before it changes {changed}")
        leaves, _ = flattened((args, kwargs))
        tensors = [self._held(n) for n in self.state]
        tensors += [x for x in leaves if isinstance(x, torch.Tensor)]
        if not torch.is_grad_enabled():
            tensors = [t.detach() for t in tensors]
        call, key = self.described(tensors, args, kwargs)
        # A steady draw gives the least number.
        seed = torch.randint(STEADY, 2**62, ())
        found = OPAQUE(tensors, seed, key, self.work.flops,
                       self.work.size_bytes, self.work.kernels)
        return self._returned(call, found)

    def described(self, tensors: Sequence[torch.Tensor], args: tuple[Any, ...],
                  kwargs: Mapping[str, Any]) -> tuple[OpaqueCall, str]:
        """The call with its key; `work` is then what it costs.

        Parameters
        ----------
        tensors : sequence of Tensor
            Parameters, buffers and those of the arguments, like which it
            is tried out.
        args, kwargs
            Of the call.

        Raises
        ------
        NotIsolated
        """
        leaves, tree = flattened((args, dict(kwargs)))
        strange = [
            type(x).__name__ for x in leaves
            if not isinstance(x, torch.Tensor) and not is_constant(x)
        ]
        if strange:
            raise NotIsolated(f"it is called with a {strange[0]}")
        constants = tuple(LEAF if isinstance(x, torch.Tensor) else x
                          for x in leaves)
        call, self.work = self._call_of(constants, tree, tensors)
        key = registered(call, [_shape(t) for t in tensors])
        self.keys.add(key)
        return call, key

    def _held(self, name: str) -> torch.Tensor:
        """By its table: a trace puts other tensors there."""
        owner, _, key = name.rpartition(".")
        module = self.module.get_submodule(owner)
        table = (module._parameters
                 if key in module._parameters else module._buffers)
        tensor = table[key]
        assert tensor is not None
        return tensor

    def _call_of(self, constants: tuple[Any, ...], tree: pytree.TreeSpec,
                 tensors: Sequence[torch.Tensor]) -> tuple[OpaqueCall, Work]:
        autocast = ambient_autocast()
        known = (repr(constants), str(tree), autocast,
                 repr([_shape(t) for t in tensors]))
        if known not in self._known:
            learnt = self._learn(constants, tree, autocast, tensors)
            self.real |= learnt.real
            self._known[known] = (self._described(constants, tree, autocast,
                                                  learnt), learnt.work)
        return self._known[known]

    def _learn(self, constants: tuple[Any, ...], tree: pytree.TreeSpec,
               autocast: torch.dtype | None,
               tensors: Sequence[torch.Tensor]) -> Learnt:
        count = len(self.state)

        def run(given: Sequence[torch.Tensor], trial: int) -> Ended:
            supply = iter(given[count:])
            leaves = [next(supply) if x == LEAF else x for x in constants]
            args, kwargs = pytree.tree_unflatten(leaves, tree)
            with torch.autocast("cpu",
                                dtype=autocast or torch.bfloat16,
                                enabled=autocast is not None):
                return self.settled.run(dict(
                    zip(self.state, given[:count], strict=True)),
                                        args,
                                        kwargs,
                                        seed=trial)

        inputs = tensors[count:]
        known = self.examples_of(inputs) if self.examples_of else ()
        return try_out(run,
                       tensors, [t.requires_grad for t in tensors],
                       examples=known or [self.examples[:len(inputs)]],
                       answers=not known or any(x is None for x in known[0]))

    def _described(self, constants: tuple[Any, ...], tree: pytree.TreeSpec,
                   autocast: torch.dtype | None, learnt: Learnt) -> OpaqueCall:
        ended = learnt.ended
        strange = [
            type(x).__name__ for x in ended.leaves
            if not is_plain(x) and x != LEAF
        ]
        if strange:
            raise NotIsolated(f"it returns a {strange[0]}")
        written = tuple(sorted(ended.buffers))
        return OpaqueCall(path=self.path,
                          settled=self.settled,
                          state=self.state,
                          arguments=constants,
                          tree=tree,
                          autocast=autocast,
                          results=tuple(map(_spec, ended.tensors)),
                          leaves=ended.leaves,
                          result_tree=ended.tree,
                          written=written,
                          buffers=tuple(
                              _spec(ended.buffers[n]) for n in written),
                          draws=learnt.draws)

    def _returned(self, call: OpaqueCall,
                  found: Sequence[torch.Tensor]) -> Any:
        count = len(call.results)
        for name, value in zip(call.written, found[count:], strict=True):
            with torch.no_grad():
                self._held(name).copy_(value.detach())
        supply = iter([
            x if spec.requires_grad else x.detach()
            for x, spec in zip(found, call.results)
        ])
        return pytree.tree_unflatten(
            [next(supply) if x == LEAF else x for x in call.leaves],
            call.result_tree)


def _holder(module: nn.Module) -> nn.Module:
    """On which hangs what its code may look at."""
    owner = module.owner if isinstance(module, Function) else None
    return module if owner is None else owner


def _shape(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.requires_grad


def _spec(tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec(shape=tuple(tensor.shape),
                      dtype=tensor.dtype,
                      requires_grad=tensor.requires_grad)


@contextlib.contextmanager
def replaced(opaque: Mapping[str, Opaque]) -> Iterator[None]:
    """Let calls of these modules be operators meanwhile."""
    with contextlib.ExitStack() as stack:
        for item in opaque.values():
            stack.enter_context(_replaced(item))
        yield


@contextlib.contextmanager
def _replaced(item: Opaque) -> Iterator[None]:
    if isinstance(item.module, Function):
        with stands_in(item.module, item):
            yield
        return
    item.module.__dict__["forward"] = item
    try:
        yield
    finally:
        del item.module.__dict__["forward"]
