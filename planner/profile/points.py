"""Which points are measured, the most telling ones first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.profile.point import COLLECTIVE_KINDS, Groups, Point

__all__ = ["Sizes", "all_groups", "points_for"]

_AT_ONCE = 32
"""Messages on their way, so that they take turns at nothing but the host."""
_MUCH = 64
"""Products of the longest work that ranks straggle at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large what is measured is; by order of what it tells.

    Parameters
    ----------
    products : tuple of int
        Widths of square products.
    elements : tuple of int
        Of tensors that memory-bound kernels pass over.
    sequences : tuple of int
        Tokens that attend to each other, in 4 times 8 heads of 64.
    messages : tuple of int
        Bytes of collectives.
    dtypes : tuple of str
        The first is measured most.
    """

    products: tuple[int, ...]
    elements: tuple[int, ...]
    sequences: tuple[int, ...]
    messages: tuple[int, ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, device_type: str) -> Sizes:
        """What a device of this type is busy with for about 0.1 to 10 ms."""
        if device_type == "cpu":
            return cls(products=(512, 128, 256, 1024),
                       elements=(2**22, 2**16, 2**19, 2**12),
                       sequences=(256, 64, 512),
                       messages=(2**22, 2**12, 2**18, 2**24, 2**15),
                       dtypes=("float32", "bfloat16"))
        return cls(products=(4096, 1024, 8192, 2048),
                   elements=(2**26, 2**20, 2**24, 2**16),
                   sequences=(2048, 512, 4096),
                   messages=(2**26, 2**13, 2**22, 2**28, 2**18),
                   dtypes=("bfloat16", "float32", "float16"))


def points_for(device_type: str,
               world_size: int,
               sizes: Sizes | None = None) -> list[Point]:
    """All points of a machine; a prefix of them tells the most it can.

    Families (a product in one dtype, a collective over one group, ...) take
    turns, each with its most telling size first.

    Parameters
    ----------
    device_type : str
    world_size : int
        Processes.
    sizes : Sizes, optional
        Left out: those for the type of device.
    """
    sizes = sizes or Sizes.of(device_type)
    families = [list(f) for f in _families(sizes, device_type, world_size)]
    turns = itertools.zip_longest(*families)
    found = [p for turn in turns for p in turn if p is not None]
    return list(dict.fromkeys(found))


def _families(sizes: Sizes, device_type: str,
              world_size: int) -> Iterator[list[Point]]:
    for number, dtype in enumerate(sizes.dtypes):
        yield [_square(n, dtype) for n in sizes.products]
        yield _tiny(dtype) if number == 0 else []
        yield [_attention(s, dtype) for s in sizes.sequences]
        yield [_attention(s, dtype, backward=True) for s in sizes.sequences]
        yield _memory_bound("add", sizes.elements, dtype)
    yield from _collectives(sizes, world_size)
    if world_size > 1:
        yield [_interference(sizes, world_size)]
        # One without the others tells nothing.
        yield from ([point] for point in _straggling(sizes, world_size))
        yield [_alone(sizes, world_size)]
    first = sizes.dtypes[0]
    yield _layouts(sizes.products[0], first)
    yield _linears(sizes.products, first)
    if device_type == "cpu":
        # Elsewhere the host does these while the device computes.
        yield [Point(kind="view")]
        yield _messages(sizes, world_size)
    yield [Point(kind="call", sizes=(n, )) for n in (64, 8)]
    for kind in ("gelu", "softmax", "copy", "layer_norm", "rms_norm", "silu"):
        yield _memory_bound(kind, sizes.elements, first)
        if kind != "copy":
            yield _memory_bound(kind, sizes.elements[:3], first, backward=True)
    yield _embeddings(sizes.elements, first)
    yield _losses(sizes.elements, first)
    yield _optimizers(sizes.elements)
    if device_type != "cpu":
        yield [Point(kind="dispatch"), Point(kind="allocator")]


def _square(width: int, dtype: str) -> Point:
    return Point(kind="mm", dtype=dtype, sizes=(width, ) * 3, variant="nn")


def _tiny(dtype: str) -> list[Point]:
    """Kernels that do next to nothing but start."""
    return [
        Point(kind="add", dtype=dtype, sizes=(8, 8)),
        Point(kind="mm", dtype=dtype, sizes=(8, 8, 8), variant="nn"),
        Point(kind="layer_norm", dtype=dtype, sizes=(8, 8)),
        Point(kind="copy", dtype=dtype, sizes=(8, 8)),
    ]


def _attention(tokens: int, dtype: str, *, backward: bool = False) -> Point:
    return Point(kind="attention",
                 dtype=dtype,
                 sizes=(4, 8, tokens, 64),
                 variant="causal",
                 backward=backward)


def _memory_bound(kind: str,
                  elements: Sequence[int],
                  dtype: str,
                  *,
                  backward: bool = False) -> list[Point]:
    return [
        Point(kind=kind, dtype=dtype, sizes=_rows(n), backward=backward)
        for n in elements
    ]


def _rows(elements: int) -> tuple[int, int]:
    """A matrix of about as many rows as columns."""
    width = 2**(elements.bit_length() // 2)
    return elements // width, width


def _layouts(width: int, dtype: str) -> list[Point]:
    """Products as linear layers and their gradients take them."""
    return [
        Point(kind="mm", dtype=dtype, sizes=sizes, variant=variant)
        for sizes, variant in (
            ((width, width, 4 * width), "nt"),
            ((width, 4 * width, width), "nn"),
            ((4 * width, width, width), "tn"),
            ((width // 4, width, width), "nt"),
            ((width, width // 8, width), "nt"),
        )
    ]


def _linears(widths: Sequence[int], dtype: str) -> list[Point]:
    return [
        Point(kind="linear",
              dtype=dtype,
              sizes=(2 * n, n, n),
              backward=backward) for n in widths[:2]
        for backward in (False, True)
    ]


def _embeddings(elements: Sequence[int], dtype: str) -> list[Point]:
    found = []
    for n in elements[:2]:
        rows, width = _rows(n)
        found += [
            Point(kind="embedding",
                  dtype=dtype,
                  sizes=(rows, 4 * rows, width),
                  backward=backward) for backward in (False, True)
        ]
    return found


def _losses(elements: Sequence[int], dtype: str) -> list[Point]:
    return [
        Point(kind="cross_entropy",
              dtype=dtype,
              sizes=_rows(n),
              backward=backward) for n in elements[:2]
        for backward in (False, True)
    ]


def _optimizers(elements: Sequence[int]) -> list[Point]:
    """Many tensors of one size and few; AdamW's two quick ways."""
    return [
        Point(kind=kind, sizes=(count, elements[0] // count))
        for count in (16, 128)
        for kind in ("step_adamw_fused", "step_adamw_foreach")
    ]


def all_groups(world_size: int) -> list[Groups]:
    """Groups of every size that divides the world, from the largest.

    Neighbours and ranks that are far apart, all at once; and one group of
    neighbours alone.
    """
    found = [Groups(shape=(1, world_size), axis=1)]
    for size in range(world_size - 1, 1, -1):
        if world_size % size == 0:
            count = world_size // size
            found += [
                Groups(shape=(count, size), axis=1),
                Groups(shape=(size, count), axis=0),
                Groups(shape=(count, size), axis=1, alone=True)
            ]
    return found


def _collectives(sizes: Sizes, world_size: int) -> Iterator[list[Point]]:
    if world_size == 1:
        return
    for groups in all_groups(world_size):
        own = COLLECTIVE_KINDS[:1] if groups.alone else COLLECTIVE_KINDS
        for kind in own:
            found = [
                Point(kind=kind,
                      sizes=(_divisible(n, groups.size), ),
                      groups=groups) for n in sizes.messages
            ]
            # A large one tells the rate, a small one the latency.
            yield [found[0], *found[2:]]
            yield found[1:2]


def _divisible(size_bytes: int, parts: int) -> int:
    """The next size that is so many whole float32 elements each."""
    return math.ceil(size_bytes / (4 * parts)) * 4 * parts


def _messages(sizes: Sizes, world_size: int) -> list[Point]:
    """Many small ones from every rank to the next, around."""
    if world_size == 1:
        return []
    return [
        Point(kind="messages",
              sizes=(_AT_ONCE, _divisible(min(sizes.messages), world_size)),
              groups=Groups(shape=(1, world_size), axis=1))
    ]


def _interference(sizes: Sizes, world_size: int) -> Point:
    """Products and an all-reduce, alone and at once."""
    size_bytes = _divisible(sizes.messages[0], world_size)
    return Point(kind="interference",
                 sizes=(sizes.products[0], size_bytes),
                 groups=Groups(shape=(1, world_size), axis=1))


def _straggling(sizes: Sizes, world_size: int) -> list[Point]:
    """Short and long work, and a small all-reduce after it."""
    groups = Groups(shape=(1, world_size), axis=1)
    return [
        Point(kind=kind, sizes=_work(sizes, count, world_size), groups=groups)
        for count in (4, 16, _MUCH) for kind in ("compute", "lateness")
    ]


def _alone(sizes: Sizes, world_size: int) -> Point:
    """The longest of that work on one rank, while the others wait."""
    return Point(kind="alone_speedup",
                 sizes=_work(sizes, _MUCH, world_size),
                 groups=Groups(shape=(world_size, 1), axis=1, alone=True))


def _work(sizes: Sizes, count: int, world_size: int) -> tuple[int, int, int]:
    """So many products, and the bytes of what comes after them."""
    width = min(sizes.products[:3], key=lambda n: abs(n - 256))
    return width, count, _divisible(min(sizes.messages), world_size)
