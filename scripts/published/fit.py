"""Fit the numbers of a kind of device to the times of published runs.

Errors of log time, least squares with a soft loss. Rows of one source share
what is particular to its software, so a source weighs as a few rows and not
as many; and each number has a usual value, measured elsewhere or known of
such devices, that it leaves only for what several rows say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from planner.cluster.slowest import slowest
from planner.cost.analytic.hardware import Hardware, Rates
from planner.cost.analytic.step import step_time
from scripts.published.batch import Batch, product_dtype

__all__ = [
    "Parameter", "SHARED", "fit", "of_preset", "parameters_of", "softened",
    "times_with"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """What is fitted: its usual value, and by what factor it may differ.

    Parameters
    ----------
    name : str
    usual : float
    spread : float
        Standard deviation of its logarithm over devices and software.
    most : float
        What it cannot exceed.
    """

    name: str
    usual: float
    spread: float
    most: float = 1.0


SHARED = tuple(
    Parameter(name=name, usual=usual, spread=spread, most=most)
    for name, usual, spread, most in (
        # 0.87 of an A100's peak is the most that was measured
        # (ml-engineering); a step's products stay below their best shapes.
        ("matmul", 0.83, 0.03, 0.95),
        # FlashAttention-2 reaches 0.4 to 0.65 of an A100's peak forward and
        # backward, by length, and a bit more than half of its rate on an
        # H100 (Dao 2023); the first kernels 0.3 to 0.4. They do as many
        # flops a multiprocessor and clock on later devices as on an A100,
        # whose peak is half of theirs by that measure.
        ("attention", 0.56, 0.2, 0.85),
        ("first_attention", 0.38, 0.15, 0.85),
        ("second_attention", 0.56, 0.1, 0.85),
        ("memory", 0.83, 0.06, 0.95),
        ("matmul8", 0.66, 0.08, 0.8),
        ("matmul4", 0.6, 0.15, 0.8),
        ("launch_overhead_s", 3e-6, 0.3, 1e-5),
        ("dispatch_s", 4.5e-5, 0.3, 2e-4),
        ("queue_order", 5.0, 0.5, 20.0),
        # FlashAttention-2 on an A100 and -3 on an H100 do as if they needed
        # 270 to 330 keys to get to half of their rate (Dao 2023, Shah et
        # al. 2024: causal, by length).
        ("half_keys", 250.0, 0.3, 3000.0),
        # FlashAttention-3 has 0.7 of the rate at heads of 64 elements that
        # it has at 128, kernels for Blackwell little more than half; earlier
        # ones nearly all of it.
        ("exponentials", 0.4, 0.2, 1.0),
        ("exposed", 0.3, 0.4, 1.0),
        # A third less where only 8 elements divide a width: what suits
        # BigScience's runs best of 0.05 to 0.25, and nothing else says.
        ("misaligned", 0.1, 0.6, 1.0),
        # cuBLAS makes large products in 32 bits at nine tenths of the peak,
        # those of a head with heads' short sums at less.
        ("unaligned", 0.6, 0.2, 0.95),
        ("interference", 0.2, 0.6, 0.6),
        # Tenths of a percent to several, by cluster (Sinha et al. 2022).
        ("variation", 0.012, 0.3, 0.05),
        ("collective_share", 0.75, 0.2, 1.0),
        ("point_share", 0.8, 0.3, 1.0),
    ))
# The most that was measured of a product: 0.80 and 0.71 of the peaks of an
# H100 in 16 and 8 bits, 0.73 to 0.79 and 0.71 to 0.76 of Blackwell devices.
_OWN: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "Ascend 910B": {
        "attention": (0.4, 0.3),
        "matmul": (0.8, 0.1)
    },
    "Blackwell": {
        "attention": (0.48, 0.1),
        "exponentials": (0.7, 0.1),
        "first_attention": (0.09, 0.15),
        "second_attention": (0.15, 0.1),
        "matmul": (0.72, 0.03),
        "matmul8": (0.7, 0.03)
    },
    "H100": {
        "matmul": (0.72, 0.03),
        "attention": (0.5, 0.2),
        "first_attention": (0.19, 0.15),
        "second_attention": (0.3, 0.1)
    },
    "H100 500 W": {
        "matmul": (0.65, 0.05),
        "attention": (0.5, 0.2),
        "first_attention": (0.19, 0.15),
        "second_attention": (0.3, 0.1)
    },
    "V100": {
        "attention": (0.4, 0.3),
        "matmul": (0.75, 0.05)
    },
}
_CLOCKED: Mapping[str, tuple[str, ...]] = {
    "Blackwell": ("b200-sxm", "b300-sxm", "gb200-nvl72", "gb300-nvl72")
}
"""Devices of one kind that get from 1000 to 1400 W, and so keep different
shares of their clock while they multiply."""
_CLOCK = Parameter(name="clock", usual=1.0, spread=0.3, most=1.5)
_PRODUCTS = ("matmul", "matmul8", "matmul4", "attention", "first_attention",
             "second_attention")
_WELL_KNOWN = ("A100", "H100")
"""Families that several sources measured, libraries' authors among them."""
_OTHER_KERNELS = ("Ascend 910B", "V100")
"""Families that FlashAttention's kernels are not written for."""
_EVEN_HEADS = ("A100", *_OTHER_KERNELS)
"""Families with as much of exponentials as of products, and more."""
_PULL = 1.5
_SYSTEMATIC = 0.08  # how far a source is off as a whole
_ONE_STEP = 0.5  # weight of a row that is the time of a single step
_SOFT = 0.1
_BALANCE = 0.35  # sources weigh as their number of rows to the 0.3


def parameters_of(family: str) -> tuple[Parameter, ...]:
    """The parameters of a family, with what is known of it."""
    own = _OWN.get(family, {})
    wider = 1.0 if family in _WELL_KNOWN else 3.0
    found = []
    for p in SHARED:
        if family in _OTHER_KERNELS and p.name.endswith("_attention"):
            continue
        if family in _EVEN_HEADS and p.name == "exponentials":
            continue
        usual, spread = own.get(p.name, (p.usual, p.spread))
        found.append(replace(p, usual=usual, spread=wider * spread))
    clocks = [
        replace(_CLOCK, name=_clock(n)) for n in _CLOCKED.get(family, ())
    ]
    return (*found, *clocks)


def _clock(preset: str) -> str:
    return f"{_CLOCK.name} {preset}"


def of_preset(values: Mapping[str, float], preset: str) -> dict[str, float]:
    """The numbers of one preset's device: rates of products by its clock."""
    clock = values.get(_clock(preset), 1.0)
    return {
        name: float(f"{value * clock:.3g}") if name in _PRODUCTS else value
        for name, value in values.items() if not name.startswith(_CLOCK.name)
    }


def _hardware(batch: Batch, values: Mapping[str, float]) -> Hardware:
    """The batch's hardware with other numbers."""
    devices = [(c.cluster.device, product_dtype(c.preset))
               for c in batch.cases]
    longer = slowest(np.array([c.cluster.num_devices for c in batch.cases]),
                     values["variation"])
    clock = np.array([values.get(_clock(c.preset), 1.0) for c in batch.cases])
    peak = np.array([d.peak(dtype) for d, dtype in devices]) * clock / longer
    peaks = [dict(d.peak_flops_per_s) for d, _ in devices]
    eight = np.array([p.get("float8_e4m3fn", 0.0)
                      for p in peaks]) * clock / longer
    four = np.array([p.get("float4_e2m1fn_x2", 0.0)
                     for p in peaks]) * clock / longer
    single = np.array([p["float32"] for p in peaks]) / longer
    matmul = peak * values["matmul"]
    linear8 = np.where(eight > 0, eight * values["matmul8"], matmul)
    memory = np.array([d.memory_bandwidth_bytes_per_s
                       for d, _ in devices]) / longer
    plain = batch.hardware
    rates = Rates(matmul_flops_per_s=matmul,
                  attention_flops_per_s=peak * values["attention"],
                  first_attention_flops_per_s=peak *
                  values.get("first_attention", values["attention"]),
                  second_attention_flops_per_s=peak *
                  values.get("second_attention", values["attention"]),
                  linear8_flops_per_s=linear8,
                  linear4_flops_per_s=np.where(four > 0,
                                               four * values["matmul4"],
                                               linear8),
                  memory_bytes_per_s=memory * values["memory"],
                  wave_elements=plain.rates.wave_elements,
                  launch_s=values["launch_overhead_s"] * longer,
                  dispatch_s=values["dispatch_s"],
                  queue_order=values["queue_order"],
                  exposed=values["exposed"],
                  misaligned=values["misaligned"],
                  unaligned_flops_per_s=single * values["unaligned"],
                  interference=values["interference"],
                  half_keys=values["half_keys"],
                  exponentials=values.get("exponentials", 0.0),
                  attention_backward=plain.rates.attention_backward)
    return replace(plain, rates=rates).slowed(values["collective_share"],
                                              point=values["point_share"])


def times_with(batch: Batch, values: Mapping[str, float]) -> np.ndarray:
    """Step times of a batch on devices with these numbers."""
    found: np.ndarray = step_time(batch.models, batch.plans,
                                  _hardware(batch, values)).time_s
    return found


def _weights(batch: Batch, kept: np.ndarray) -> np.ndarray:
    sources = [c.source for c in batch.cases]
    counts = Counter(s for s, k in zip(sources, kept, strict=True) if k)
    return np.array([
        max(counts[c.source], 1)**-_BALANCE * (_ONE_STEP if c.one_step else 1)
        for c in batch.cases
    ])


def fit(batch: Batch,
        kept: np.ndarray,
        parameters: Sequence[Parameter],
        *,
        pull: float = _PULL) -> dict[str, float]:
    """Fit on the cases that are kept.

    Parameters
    ----------
    batch : Batch
        On devices without fitted coefficients.
    kept : array of bool
        Which of its cases are fitted.
    parameters : sequence of Parameter
    pull : float
        How much the usual values weigh.
    """
    measured = np.array([c.measured_s for c in batch.cases])
    weight = _weights(batch, kept) / _SYSTEMATIC
    usual = np.log([p.usual for p in parameters])
    spread = np.array([p.spread for p in parameters])

    def values(x: np.ndarray) -> dict[str, float]:
        return dict(
            zip([p.name for p in parameters], np.exp(x).tolist(), strict=True))

    def residuals(x: np.ndarray) -> np.ndarray:
        errors = np.log(times_with(batch, values(x)) / measured)
        return np.concatenate([(weight * softened(errors))[kept],
                               pull * (x - usual) / spread])

    highest = np.log([p.most for p in parameters])
    solution = least_squares(residuals,
                             np.minimum(usual, highest - 1e-3),
                             bounds=(usual - 4 * spread,
                                     np.minimum(usual + 4 * spread, highest)))
    return {k: float(f"{v:.3g}") for k, v in values(solution.x).items()}


def softened(errors: np.ndarray) -> np.ndarray:
    """Large errors count linearly: the "soft l1" loss."""
    squares = 2 * (np.sqrt(1 + (errors / _SOFT)**2) - 1)
    return _SOFT * np.sign(errors) * np.sqrt(squares)
