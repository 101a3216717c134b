"""Initialise a model that was built on the meta device, module by module.

What initialises a tensor is found out without memory: every initialiser is
run on fake tensors once, and what it writes is noted. Then
the tensors of one module at a time become real, the initialisers that
write them run again under a seed that depends on the module's path only,
and everything else stays on meta. So the values are the same on any mesh
and under any plan.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from scaletorch.runtime.random import mix, seeded
from scaletorch.structure import Slots, put

__all__ = ["initialised"]

_MOST_READS = 1000
_METHODS = ("reset_parameters", "_reset_parameters", "init_weights")


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """An initialiser and the tensors (by id) that it writes."""

    run: Callable[[], Any]
    writes: frozenset[int]


def initialised(
        structure: nn.Module, virtual: Collection[int], slots: Slots, *,
        seed: int, device: torch.device
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Make tensors real, one module's at a time.

    Parameters
    ----------
    structure : nn.Module
        All on meta; after the iteration it is as before.
    virtual : collection of int
        Ids of the tensors to initialise.
    slots : Slots
        Where each tensor stands.
    seed : int
    device : torch.device

    Yields
    ------
    list of (Tensor, Tensor)
        A meta tensor and its value, for each tensor of one module.

    Raises
    ------
    ValueError
        Naming a tensor that nothing initialises.
    """
    if not virtual:
        return
    writers = _writers(structure, slots)
    slots = _firsts(slots)
    missing = set(virtual)
    for path, module in structure.named_modules():
        own = {
            id(t): t
            for t in (*module._parameters.values(), *module._buffers.values())
            if t is not None and id(t) in missing
        }
        if not own:
            continue
        missing -= set(own)
        due = [w for w in writers if w.writes & set(own)]
        _check_covered(path, module, own, due)
        salt = hashlib.sha256(path.encode()).digest()[:7]
        yield _made(own, due, slots, device,
                    mix(seed, int.from_bytes(salt, "big")))


def _made(own: dict[int, torch.Tensor], due: list[_Writer], slots: Slots,
          device: torch.device,
          seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    real = {n: _empty(t, device) for n, t in own.items()}
    put(slots, real)
    try:
        with torch.no_grad(), seeded(seed, device):
            for writer in due:
                writer.run()
        table_key = {n: slots[n][0] for n in own}
        return [(own[n], table[key]) for n, (table, key) in table_key.items()]
    finally:
        put(slots, own)


def _empty(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    made = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    return nn.Parameter(made, requires_grad=tensor.requires_grad) \
        if isinstance(tensor, nn.Parameter) else made


def _check_covered(path: str, module: nn.Module, own: dict[int, torch.Tensor],
                   due: list[_Writer]) -> None:
    written = frozenset().union(*(w.writes for w in due))
    for key, tensor in (*module._parameters.items(), *module._buffers.items()):
        if id(tensor) in own and id(tensor) not in written:
            kind = "parameter" if key in module._parameters else "buffer"
            raise ValueError(
                f"{kind} {f'{path}.{key}' if path else key} is on the meta "
                f"device and nothing initialises it: give "
                f"{type(module).__name__} a method reset_parameters() that "
                "fills its tensors (or the model a method "
                "_init_weights(module)), or build the model on a real "
                "device")


def _writers(structure: nn.Module, slots: Slots) -> list[_Writer]:
    """All initialisers in the order in which construction runs them.

    Every module's own method first, inner modules before outer ones, then
    the model's ``_init_weights`` for every module, which Hugging Face
    models and many others have. Where that writes a tensor, the module's
    own method is not run for it.
    """
    modules = list(_inner_first(structure))
    real = {n: places[0][0][places[0][1]] for n, places in slots.items()}
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = {n: _fake(t, mode) for n, t in real.items()}
    storages = {t.untyped_storage()._cdata: n for n, t in fakes.items()}
    put(slots, {n: _fake(t, mode) for n, t in real.items()})
    put(_firsts(slots), fakes)
    try:
        with torch.no_grad(), mode:
            general = [
                _observed(run, module, storages)
                for module, run in _general(structure, modules)
            ]
            own = [
                _observed(run, module, storages)
                for module, run in _own(modules)
            ]
    finally:
        put(slots, real)
    covered = frozenset().union(*(w.writes for w in general))
    left = [_Writer(run=w.run, writes=w.writes - covered) for w in own]
    return [*left, *general]


def _firsts(slots: Slots) -> Slots:
    """Of tied places the first one's initialisers count, as models tie
    what they have initialised."""
    return {n: places[:1] for n, places in slots.items()}


def _inner_first(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from _inner_first(child)
    yield module


def _own(
        modules: list[nn.Module]
) -> Iterator[tuple[nn.Module, Callable[[], Any]]]:
    for module in modules:
        for name in _METHODS:
            method = getattr(module, name, None)
            if callable(method) and _takes(method, 0) and not _takes(
                    getattr(module, "_init_weights", None), 1):
                yield module, method
                break


def _general(
        structure: nn.Module, modules: list[nn.Module]
) -> Iterator[tuple[nn.Module, Callable[[], Any]]]:
    """``owner._init_weights(module)`` of the nearest owner."""
    owners: dict[int, nn.Module] = {}
    for owner in structure.modules():  # outer before inner: inner one wins
        if _takes(getattr(owner, "_init_weights", None), 1):
            owners.update({id(m): owner for m in owner.modules()})
    for module in modules:
        nearest = owners.get(id(module))
        if nearest is not None:
            yield module, _Applied(nearest, module)


class _Applied:
    """``owner._init_weights(module)``, to be called later."""

    def __init__(self, owner: nn.Module, module: nn.Module) -> None:
        self.owner = owner
        self.module = module

    def __call__(self) -> None:
        self.owner._init_weights(self.module)


def _takes(method: Any, count: int) -> bool:
    """Whether a method can be called with so many positional arguments."""
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


class _Writes(TorchDispatchMode):
    """Notes the storages that operators write to.

    Values that are read are zero: rejection sampling then accepts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.storages: set[int] = set()
        self.reads = 0

    def __torch_dispatch__(self,
                           func: Any,
                           types: Any,
                           args: Any = (),
                           kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            return self._read(args[0])
        for number, argument in enumerate(func._schema.arguments):
            value = kwargs.get(
                argument.name) if number >= len(args) else (args[number])
            written = argument.alias_info and argument.alias_info.is_write
            if written and isinstance(value, torch.Tensor):
                self.storages.add(value.untyped_storage()._cdata)
        return func(*args, **kwargs)

    def _read(self, value: torch.Tensor) -> int | float | bool:
        self.reads += 1
        if self.reads > _MOST_READS:
            raise RuntimeError("it waits for a value other than zero")
        if value.dtype == torch.bool:
            return False
        return 0.0 if value.dtype.is_floating_point else 0


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """Not on meta: some initialisers skip what is there."""
    with mode:
        made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made


def _observed(run: Callable[[], Any], module: nn.Module,
              storages: dict[int, int]) -> _Writer:
    """Run an initialiser on fake tensors and note what it writes."""
    before = _state(module)
    mode = _Writes()
    try:
        with seeded(0, torch.device("cpu")), mode:
            run()
        written = mode.storages
    except (RuntimeError, NotImplementedError):
        # It needs values, which fake tensors lack.
        written = mode.storages | {
            tensor.untyped_storage()._cdata
            for _, _, tensor, _ in _state(module, recurse=False)
        }
    written |= _replaced(before)
    return _Writer(run=run,
                   writes=frozenset(storages[s] for s in written
                                    if s in storages))


_Saved = list[tuple[dict[str, Any], str, Any, torch.Tensor]]


def _state(module: nn.Module, *, recurse: bool = True) -> _Saved:
    modules = module.modules() if recurse else [module]
    tables: list[dict[str, Any]] = [
        table for m in modules for table in (m._parameters, m._buffers)
    ]
    return [(table, key, tensor, tensor.data) for table in tables
            for key, tensor in table.items() if tensor is not None]


def _replaced(before: _Saved) -> set[int]:
    """Storages of tensors that were assigned instead of written.

    They are put back.
    """
    found = set()
    for table, key, tensor, data in before:
        storage = data.untyped_storage()._cdata
        now: Any = table.get(key)
        if now is not tensor or now.untyped_storage()._cdata != storage:
            found.add(storage)
            table[key] = tensor
            tensor.data = data
    return found
