"""How fast a network draws all maps, and how much of the processor it uses for that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from builder.validation.report import Claim, Table
from temimagenet.device import halves_well
from temimagenet.models import Model
from temimagenet.precision.records import machine

__all__ = ["EDGE_PX", "Speed", "convolution_flop", "matmul_flop_per_s", "measure_speed", "speed_claims", "speed_table"]

EDGE_PX = 512
_RUNS = 10
_MATRIX = 1024
_MOST_S = 0.25


@dataclass(frozen=True)
class Speed:
    """Times of one image of `EDGE_PX` x `EDGE_PX` pixels.

    Attributes:
        seconds: time of each run.
        flop: operations of the network's convolutions, a multiplication and an addition counted as two.
        flop_per_s: what matrix products reach here at the same precision, with the same threads.
        half: whether the network works in bfloat16.
        threads: threads used.
    """

    seconds: tuple[float, ...]
    flop: int
    flop_per_s: float
    half: bool
    threads: int

    @property
    def share(self) -> float:
        """Time that the convolutions would take at the pace of matrix products, over the time taken."""
        return self.flop / self.flop_per_s / median(self.seconds)


def _timed(work: Callable[[], object], runs: int) -> tuple[float, ...]:
    """Seconds of each run, after one that does not count."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return tuple(times)


def convolution_flop(model: Model, edge_px: int) -> int:
    """Operations of a network's convolutions on a square image."""
    image = torch.zeros(1, 1, edge_px, edge_px)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.network(image)
    return int(counter.get_total_flops())


def matmul_flop_per_s(half: bool, runs: int = _RUNS) -> float:
    """Operations a second of the fastest of several products of square matrices."""
    kind = torch.bfloat16 if half else torch.float32
    left, right = (torch.rand(_MATRIX, _MATRIX).to(kind) for _ in range(2))
    return 2.0 * _MATRIX**3 / min(_timed(lambda: left @ right, runs))


def measure_speed(model: Model, edge_px: int = EDGE_PX, runs: int = _RUNS) -> Speed:
    """Time the drawing of all maps of one image on the CPU."""
    image = np.random.Generator(np.random.Philox(0)).poisson(20.0, (edge_px, edge_px))
    seconds = _timed(lambda: model.predict(image, 0.1), runs)
    half = halves_well(torch.device("cpu"))
    return Speed(
        seconds, convolution_flop(model, edge_px), matmul_flop_per_s(half, runs), half, torch.get_num_threads()
    )


def speed_claims(speed: Speed) -> tuple[Claim, ...]:
    """Time of one image, and the share of the processor's pace."""
    over = f"{speed.threads} thread{'s' if speed.threads > 1 else ''} of {machine()['cpu']}; asked for 2 cores"
    share = "time of the convolutions at the pace of matrix products over the time taken"
    return (
        Claim(f"All maps, {EDGE_PX} × {EDGE_PX} pixels", median(speed.seconds), most=_MOST_S, unit="s", over=over),
        Claim("Share of the processor’s pace", speed.share, over=share),
    )


def speed_table(speed: Speed) -> Table:
    """The numbers behind it."""
    rows: list[tuple[str | float, ...]] = [
        ("fastest run (s)", min(speed.seconds)),
        ("median (s)", median(speed.seconds)),
        ("slowest run (s)", max(speed.seconds)),
        ("standard deviation (s)", float(np.std(speed.seconds, ddof=1))),
        ("convolutions (10⁹ operations)", speed.flop / 1e9),
        (f"matrix products, {'bfloat16' if speed.half else 'float32'} (10⁹ operations/s)", speed.flop_per_s / 1e9),
        ("convolutions at that pace (s)", speed.flop / speed.flop_per_s),
    ]
    return Table(f"{len(speed.seconds)} runs, {speed.threads} threads.", ("What", "Measured"), tuple(rows), (0, 3))
