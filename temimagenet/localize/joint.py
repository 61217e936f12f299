"""The joint model of `scan_aware`: image, derivatives, and the sparse normal equations of a Gauss-Newton step.

Unknowns: x, y and height of each column; the shape of the spot (an elliptic Gaussian and a wider one below it), the
same for all columns; a spline background; the displacement of the beam in each row. All lengths are in pixels.

A spot is many pixels wide. So spots are worked out at points along each row half their standard deviation apart, and
cubic splines through the points give the pixels. Image and gradients are those of the pixels. Gauss-Newton's matrix
takes sums over the points instead: products of derivatives are smooth. Rows cannot be thinned out: each has its own
displacement.

Rows meet only columns, two unknowns each, so they are eliminated first. What is left couples columns whose windows
share rows: ordered from top to bottom in strips a window high, a block-tridiagonal matrix, bordered by the few unknowns
of shape and background. The matrix is in single precision, like the derivatives it is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.interpolate import BSpline, make_interp_spline
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.spatial import KDTree

__all__ = [
    "ANCHOR",
    "REACH",
    "TAIL",
    "TAIL_SHARE",
    "Covariance",
    "Equations",
    "Model",
    "NotDefinite",
    "Problem",
    "State",
    "Step",
]

TAIL = 2.0
"""The spot is a Gaussian and a small one this much wider: within 0.3 % of the peak for common probes and sources."""

TAIL_SHARE = (0.04, 0.02)
"""Mean and standard deviation of the prior of the wider one's share of the height."""

ANCHOR = 2.0
"""Standard deviation of the prior of a column around its start, in standard deviations of the spot: it holds what is
too faint to hold itself, and pulls a column known to a tenth of its spot by a quarter of a percent."""

REACH = 3.5
"""Half edge of a column's window in standard deviations of the spot."""

_SPACING = 0.5
"""Distance of the points along a row at which spots are worked out, in standard deviations of the spot."""

_BLOCK = 128
"""Pixels along a row that are interpolated together."""

_TOGETHER = 32
"""Columns that are drawn together."""

_KNOT_PX = 100.0
_MOST_PIECES = 6

Array = NDArray[np.float64]
Single = NDArray[np.float32]


class NotDefinite(Exception):
    """The damped normal equations are singular: the damping must rise."""


@dataclass(eq=False)
class State:
    """Values of all unknowns.

    Attributes:
        xy: (K, 2) positions.
        height: (K,) heights of the spots.
        shape: (4,) a, b, c of the form Q = a u^2 + 2 b u v + c v^2, and the share w of the wider Gaussian:
            (1 - w) exp(-Q / 2) + w exp(-Q / (2 TAIL^2)).
        weights: (ny nx,) spline coefficients of the background.
        shift: (rows, 2) displacements (dx, dy) of the beam.
    """

    xy: Array
    height: Array
    shape: Array
    weights: Array
    shift: Array


@dataclass(eq=False)
class Model:
    """The image at a state, and its derivatives.

    Attributes:
        image, background: (rows, columns).
        columns: (K, 3, n, nx) derivatives by x, y and height of the columns in their windows.
        fields: (6, rows, points) derivatives by the shape (4) and by the displacement of the point's own row (2), in
            the padded image.
    """

    image: Array
    background: Array
    columns: Single
    fields: Single


@dataclass(frozen=True, eq=False)
class Strip:
    """Columns `first` to `last` and the rows `top` to `bottom` that their windows reach, in the padded image."""

    first: int
    last: int
    top: int
    bottom: int

    def __len__(self) -> int:
        """Number of columns."""
        return self.last - self.first

    @property
    def columns(self) -> slice:
        """Its columns among all."""
        return slice(self.first, self.last)

    @property
    def rows(self) -> slice:
        """Its rows among those of the padded image."""
        return slice(self.top, self.bottom)


class Problem:
    """One image, its windows, splines, strips and pairs; windows may reach into a frame of zeros around it.

    Attributes:
        spacing: distance of the points along a row in pixels.
        between: (points, columns) share of each point in each pixel.
        blocks: points and pixels of each part of a row that is interpolated by itself.
        middle: (K, 2) point and row that each column's window is centred on.
        half, half_x: rows and points from there to the window's edge.
        n, nx: rows and points of a window.
        order: the starts' indices from top to bottom: the order of everything about columns.
        pairs: (P, 2) columns whose windows share pixels, the upper one first.
        alike: for each distance (dx, dy) of two windows, the pairs that are so far apart.
        empty: (rows, columns) pixels that hold nothing, or None.
        anchor, anchor_precision: (K, 2) and (K,) centre and inverse variance of the prior of each column's position.
    """

    def __init__(self, values: Array, start: Array, width: float, reach: float = REACH) -> None:
        self.values = values
        self.empty: NDArray[np.bool_] | None = None
        rows, cols = values.shape
        points = min(cols, 4 + int(np.ceil((cols - 1) / (_SPACING * width))))
        self.spacing = (cols - 1) / (points - 1)
        self.between = _interpolation(cols, points)
        # Points farther than these give a pixel less than a millionth.
        self.blocks = [
            (slice(max(0, int(first / self.spacing) - 12), int((first + _BLOCK) / self.spacing) + 12),
             slice(first, first + _BLOCK))
            for first in range(0, cols, _BLOCK)
        ]  # fmt: skip
        self.half = max(3, int(np.ceil(reach * width)))
        self.half_x = max(3, int(np.ceil(reach * width / self.spacing)))
        self.n, self.nx = 2 * self.half + 1, 2 * self.half_x + 1
        self.order = np.argsort(start[:, 1], kind="stable")
        start = start[self.order]
        self.anchor, self.anchor_precision = start, np.full(len(start), (ANCHOR * width) ** -2)
        # Points in x, rows in y.
        nearest = np.rint(start / (self.spacing, 1.0))
        self.middle = np.clip(nearest, 0, (points - 1, rows - 1)).astype(np.int64)
        self.by, self.bx = _splines(rows), _splines(cols)
        self.bx_points = _splines(cols, points)
        # A window's rows of the splines, zero beyond the image.
        self.by_windows = _windows(self.by, self.half, self.middle[:, 1])
        self.bx_windows = _windows(self.bx_points, self.half_x, self.middle[:, 0])
        self.strips = self._strips()
        self.pairs, self.alike = self._pairs()

    def _strips(self) -> list[Strip]:
        """Columns from top to bottom in strips a window high: those of one share rows with those of the next only."""
        y = self.middle[:, 1]
        strips, first = [], 0
        while first < len(y):
            last = int(np.searchsorted(y, y[first] + self.n))
            strips.append(Strip(first, last, int(y[first]), int(y[last - 1]) + self.n))
            first = last
        return strips

    def _pairs(self) -> tuple[NDArray[np.int64], list[tuple[slice, tuple[int, int]]]]:
        """Pairs in the order of their distance, and which have the same.

        Every pair counts, however little it overlaps: without it the equations would not be those of any image. Spots
        twice the reach apart do not overlap in single precision, though corners of their windows do.
        """
        places = self.middle / (2.0 * self.half_x, 2.0 * self.half)
        pairs = np.sort(KDTree(places).query_pairs(1.0 + 1e-9, output_type="ndarray"), axis=1)
        apart = self.middle[pairs[:, 0]] - self.middle[pairs[:, 1]]
        order = np.lexsort(apart.T)
        pairs, apart = pairs[order], apart[order]
        firsts = np.flatnonzero(np.diff(apart, axis=0, prepend=np.iinfo(np.int64).max).any(axis=1)).tolist()
        alike = [
            (slice(first, last), (int(apart[first, 0]), int(apart[first, 1])))
            for first, last in pairwise([*firsts, len(pairs)])
        ]
        return pairs, alike

    def at_points(self, image: Array) -> Single:
        """(rows, points) sums over the pixels (rows, columns) that each point has a share in."""
        image = image.astype(np.float32)
        sums = np.zeros((len(image), len(self.between)), dtype=np.float32)
        for points, pixels in self.blocks:
            sums[:, points] += image[:, pixels] @ self.between[points, pixels].T
        return sums

    def at_pixels(self, image: Single) -> Single:
        """(rows, columns) of what is given at (rows, points)."""
        found = np.empty(self.values.shape, dtype=np.float32)
        for points, pixels in self.blocks:
            found[:, pixels] = image[:, points] @ self.between[points, pixels]
        return found

    def windows(self, images: Single, strip: Strip) -> Single:
        """(C, M, n, nx) windows of padded images (C, rows, points) around a strip's columns."""
        x, y = self.middle[strip.columns].T
        found: Single = sliding_window_view(images, (self.n, self.nx), axis=(1, 2))[:, y, x]
        return found

    def framed(self, image: Single) -> Single:
        """(1, rows, points) an image with the frame of zeros."""
        return np.pad(image, ((self.half, self.half), (self.half_x, self.half_x)))[None]

    def look(self, state: State, slopes: bool = True) -> Model:
        """The image at a state, and its derivatives unless they are not wanted."""
        half, wide, n, nx = self.half, self.half_x, self.n, self.nx
        rows, points = len(self.values), len(self.between)
        shift = np.pad(state.shift, ((half, half), (0, 0)))[self.middle[:, 1, None] + np.arange(n)]
        away = self.middle * (self.spacing, 1.0) - state.xy
        along = (np.arange(-wide, wide + 1) * self.spacing).astype(np.float32)
        across = (away[:, :1] + shift[:, :, 0]).astype(np.float32)
        down = (np.arange(-half, half + 1) + away[:, 1:] + shift[:, :, 1]).astype(np.float32)
        height = state.height.astype(np.float32)[:, None]
        a, b, c, w = (np.float32(value) for value in state.shape)
        # Splines ring where windows end, unless they end softly.
        ends = np.ones((n, nx), dtype=np.float32)
        ends[:, [0, -1]], ends[:, [1, -2]] = 0.25, 0.75
        # Of each column: the image, derivatives by shape (4), and by x, y and height.
        spots = np.empty((len(height), 8 if slopes else 1, n * nx), dtype=np.float32)
        fields = 7 if slopes else 1

        def fill(part: slice) -> None:
            """The spots of some columns."""
            found, h = spots[part], height[part]
            u = (along + across[part, :, None]).reshape(len(h), -1)
            v = np.repeat(down[part], nx, axis=1)
            x_part, y_part = a * u + b * v, b * u + c * v
            tail = np.exp(np.float32(-0.5 / TAIL**2) * (u * x_part + v * y_part))
            tail *= ends.ravel()
            # The narrow Gaussian is the wide one to the fourth power.
            core = np.square(np.square(tail))
            spot = (1.0 - w) * core + w * tail
            np.multiply(spot, h, out=found[:, 0])
            if not slopes:
                return
            found[:, 7] = spot
            np.multiply(tail - core, h, out=found[:, 4])
            core *= 1.0 - w
            tail *= w * np.float32(TAIL**-2)
            slope = (core + tail) * h
            np.multiply(slope, x_part, out=found[:, 5])
            np.multiply(slope, y_part, out=found[:, 6])
            slope *= -0.5
            u_part = slope * u
            np.multiply(u_part, u, out=found[:, 1])
            u_part *= 2.0
            np.multiply(u_part, v, out=found[:, 2])
            slope *= v
            np.multiply(slope, v, out=found[:, 3])

        def draw(strip: Strip) -> Single:
            """A strip's rows of the image and the fields."""
            # Few enough to stay in the processor's nearest memory.
            for first in range(strip.first, strip.last, _TOGETHER):
                fill(slice(first, min(first + _TOGETHER, strip.last)))
            drawn = np.zeros((fields, strip.bottom - strip.top, points + 2 * wide), dtype=np.float32)
            parts = spots[strip.columns, :fields].reshape(-1, fields, n, nx)
            for (x, y), part in zip((self.middle[strip.columns] - (0, strip.top)).tolist(), parts, strict=True):
                drawn[:, y : y + n, x : x + nx] += part
            return drawn

        total = np.zeros((fields, rows + 2 * half, points + 2 * wide), dtype=np.float32)
        for strip in self.strips:
            total[:, strip.rows] += draw(strip)
        # To move a row to the right is to move its columns to the left.
        np.negative(total[5:], out=total[5:])
        background = self.by @ state.weights.reshape(self.by.shape[1], -1) @ self.bx.T
        image = background + self.at_pixels(total[0, half:-half, wide:-wide])
        return Model(image, background, spots[:, 5:].reshape(len(height), -1, n, nx), total[1:])


def _interpolation(count: int, points: int) -> Single:
    """(points, count) what each point gives each pixel: cubic splines through evenly spread points."""
    each = make_interp_spline(np.linspace(0.0, count - 1.0, points), np.eye(points))
    shares: Single = each(np.arange(float(count))).T.astype(np.float32)
    return np.ascontiguousarray(shares)


def _windows(basis: Array, half: int, middle: NDArray[np.int64]) -> Single:
    """(K, 2 half + 1, n) values of splines (points, n) around each middle, zero beyond the image."""
    framed = np.pad(basis, ((half, half), (0, 0)))
    found: Single = framed[middle[:, None] + np.arange(2 * half + 1)].astype(np.float32)
    return found


def _splines(count: int, points: int | None = None) -> Array:
    """(points, n) cubic B-splines that span an axis of pixels, a knot every hundred pixels, seven at most.

    At the pixels, or at so many evenly spread points.
    """
    pieces = min(max(1, round(count / _KNOT_PX)), _MOST_PIECES)
    knots = np.concatenate([[0.0] * 3, np.linspace(0.0, count - 1.0, pieces + 1), [count - 1.0] * 3])
    basis: Array = BSpline.design_matrix(np.linspace(0.0, count - 1.0, points or count), knots, 3).toarray()
    return basis


@dataclass(frozen=True, eq=False)
class Covariance:
    """Covariances of the posterior, everything else unknown.

    Attributes:
        columns: (K, 3, 3) x, y and height of each column.
        shape: (4, 4) of the spot's shape.
        mixed: (K, 4) of each column's height with the shape.
        rows: (R, 2) variances of the displacements.
    """

    columns: Array
    shape: Array
    mixed: Array
    rows: Array


@dataclass(frozen=True, eq=False)
class Step:
    """Changes of all unknowns.

    Attributes:
        columns: (K, 3) x, y, height.
        border: (G,) shape (4), background.
        rows: (R, 2) displacements.
    """

    columns: Array
    border: Array
    rows: Array


class Equations:
    """Gauss-Newton normal equations of the posterior at one state, factorised."""

    def __init__(
        self,
        problem: Problem,
        model: Model,
        state: State,
        weight: Array,
        sigma: Array,
        damping: float = 0.0,
        row_damping: float = 0.0,
    ) -> None:
        """Assemble and factorise.

        Args:
            problem: the image.
            model: its model at the state.
            state: where the equations are taken.
            weight: (rows, columns) inverse variance of the pixels.
            sigma: (2,) prior standard deviation of the displacements; 0 keeps them where they are.
            damping: share by which the diagonal of columns, shape and background is raised.
            row_damping: the same of the displacements.

        Raises:
            NotDefinite: the equations are singular.
        """
        half, wide, rows = problem.half, problem.half_x, len(problem.values)
        self.problem = problem
        self.damping = damping
        self.live = sigma > 0.0
        self.precision = _precision(sigma)
        # The products of smooth derivatives are smooth: sums over points are those over pixels.
        at_points = problem.at_points(weight)
        fields = model.fields[:, half:-half, wide:-wide]
        weighted = fields * at_points
        # Shape and row by themselves and by each other, row by row.
        products = (weighted.transpose(1, 0, 2) @ fields.transpose(1, 2, 0)).astype(np.float64)
        products[:, :, 4:] *= self.live
        products[:, 4:] *= self.live[:, None]
        # Rows by rows; those in the frame stay zero.
        own = products[:, 4:, 4:] + np.diag(np.where(self.live, self.precision, 1.0))
        own += row_damping * own * np.eye(2)
        self.inverse = np.zeros((rows + 2 * half, 2, 2))
        self.inverse[half:-half] = np.linalg.inv(own)
        # Shape and background by themselves and by rows.
        corner, border = _border(problem, at_points, weighted, products, self.live)
        size = len(corner)
        corner += damping * np.diag(np.diag(corner))
        self.border = border.reshape(size, -1)
        self.border_solved = self._solved(border, slice(None))
        corner -= self.border_solved @ self.border.T
        # Columns by everything, strip by strip.
        framed, numbers = problem.framed(at_points), range(len(problem.strips))
        weighed = np.empty_like(model.columns)
        parts = [self._strip(number, model, framed, weighed) for number in numbers]
        self.reaches, self.solveds, self.sides = ([part[k] for part in parts] for k in range(3))
        own, both = self._pairs(model, weighed)
        blocks = [self._coupled(number, own, both) for number in numbers]
        self.chain = _Chain([diagonal for diagonal, _ in blocks], [upper for _, upper in blocks[:-1]])
        found = self.chain.forward(self.sides)
        self.divided = self.chain.divided(found)
        for part, divided in zip(found, self.divided, strict=True):
            corner -= part.T @ divided
        try:
            self.corner = cho_factor(0.5 * (corner + corner.T), check_finite=False)
        except LinAlgError as error:
            raise NotDefinite from error

    def _solved(self, couplings: Single, rows: slice) -> Single:
        """(M, 2 R) couplings (M, R, 2) to some rows after the rows' own equations are solved."""
        inverse = self.inverse[rows].astype(np.float32)
        solved: Single = np.einsum("gix,ixy->giy", couplings, inverse, optimize=True)
        return solved.reshape(len(couplings), -1)

    def _strip(self, number: int, model: Model, framed: Single, weighed: Single) -> tuple[Single, Single, Single]:
        """Of one strip's columns: coupling to its rows, the same after the rows' own equations are solved, and coupling
        to shape and background without the rows. Their derivatives times the weights are written to `weighed`."""
        problem, n, nx = self.problem, self.problem.n, self.problem.nx
        strip = problem.strips[number]
        here, count = strip.columns, len(strip)
        columns = np.multiply(model.columns[here], problem.windows(framed, strip)[0, :, None], out=weighed[here])
        around = problem.windows(model.fields, strip)
        reach = np.zeros((count, 3, strip.bottom - strip.top, 2), dtype=np.float32)
        placed = problem.middle[here, 1, None] + np.arange(n) - strip.top
        for axis in np.flatnonzero(self.live):
            part = np.einsum("kpij,kij->kip", columns, around[4 + axis])
            reach[np.arange(count)[:, None], :, placed, axis] = part
        solved = self._solved(reach.reshape(3 * count, -1, 2), strip.rows)
        side = np.empty((count, 3, len(self.border)), dtype=np.float32)
        side[:, :, :4] = columns.reshape(count, 3, -1) @ around[:4].reshape(4, count, -1).transpose(1, 2, 0)
        along = columns.reshape(count, -1, nx) @ problem.bx_windows[here]
        down = problem.by_windows[here].transpose(0, 2, 1)
        side[:, :, 4:] = (down[:, None] @ along.reshape(count, 3, n, -1)).reshape(count, 3, -1)
        without_rows = side.reshape(3 * count, -1) - solved @ self.border[:, 2 * strip.top : 2 * strip.bottom].T
        return reach.reshape(3 * count, -1), solved, without_rows

    def _pairs(self, model: Model, weighed: Single) -> tuple[Single, Single]:
        """(K, 3, 3) what couples each column to itself, and (P, 3, 3) both of each pair, all without the rows."""
        problem, n, nx, count = self.problem, self.problem.n, self.problem.nx, len(weighed)
        own = weighed.reshape(count, 3, -1) @ model.columns.reshape(count, 3, -1).transpose(0, 2, 1)
        own += np.float32(self.damping) * own * np.eye(3, dtype=np.float32)
        own[:, [0, 1], [0, 1]] += problem.anchor_precision[:, None]

        def product(alike: tuple[slice, tuple[int, int]]) -> Single:
            """Of pairs at one distance."""
            members, (dx, dy) = alike
            k, m = problem.pairs[members].T
            i0, i1, j0, j1 = max(0, -dy), n - max(0, dy), max(0, -dx), nx - max(0, dx)
            left = weighed[k, :, i0:i1, j0:j1].reshape(len(k), 3, -1)
            right = model.columns[m, :, i0 + dy : i1 + dy, j0 + dx : j1 + dx].reshape(len(k), 3, -1)
            return left @ right.transpose(0, 2, 1)

        both = np.concatenate([np.zeros((0, 3, 3), dtype=np.float32), *map(product, problem.alike)])
        return own, both

    def _coupled(self, number: int, own: Single, both: Single) -> tuple[Single, Single]:
        """What couples one strip's columns to each other, and to those of the next, without the rows."""
        strips, pairs = self.problem.strips, self.problem.pairs
        strip, count = strips[number], len(strips[number])
        chosen = (pairs[:, 0] >= strip.first) & (pairs[:, 0] < strip.last)
        (k, m), both = (pairs[chosen] - strip.first).T, both[chosen]
        near = m < count
        block = np.zeros((count, 3, count, 3), dtype=np.float32)
        block[np.arange(count), :, np.arange(count)] = own[strip.columns]
        block[k[near], :, m[near]] = both[near]
        block[m[near], :, k[near]] = both[near].transpose(0, 2, 1)
        diagonal = block.reshape(3 * count, -1) - self.solveds[number] @ self.reaches[number].T
        following = strips[number + 1 : number + 2]
        beside = np.zeros((count, 3, sum(map(len, following)), 3), dtype=np.float32)
        beside[k[~near], :, m[~near] - count] = both[~near]
        upper = beside.reshape(3 * count, -1)
        shared = 2 * sum(strip.bottom - other.top for other in following)
        if shared > 0:
            upper -= self.solveds[number][:, -shared:] @ self.reaches[number + 1][:, :shared].T
        return diagonal, upper

    def step(self, model: Model, state: State, weight: Array, sigma: Array) -> Step:
        """The step from a state and a prior, these or some close to them: gradients are their own."""
        problem, half, wide = self.problem, self.problem.half, self.problem.half_x
        left = weight * (problem.values - model.image)
        pulled = problem.at_points(left)
        fields = np.einsum("aij,ij->ia", model.fields[:, half:-half, wide:-wide], pulled).astype(np.float64)
        pull_rows = np.zeros((len(self.inverse), 2))
        pull_rows[half:-half] = fields[:, 4:] * self.live - state.shift * _precision(sigma)
        flat_rows = pull_rows.ravel().astype(np.float32)
        pull_border = np.concatenate([fields[:, :4].sum(axis=0), (problem.by.T @ left @ problem.bx).ravel()])
        pull_border[3] += (TAIL_SHARE[0] - state.shape[3]) * TAIL_SHARE[1] ** -2
        pull_border -= self.border_solved @ flat_rows
        framed = problem.framed(pulled)
        pulls = []
        for strip, solved in zip(problem.strips, self.solveds, strict=True):
            here = strip.columns
            around = problem.windows(framed, strip)[0]
            pull = np.einsum("kpij,kij->kp", model.columns[here], around)
            pull[:, :2] += (problem.anchor[here] - state.xy[here]) * problem.anchor_precision[here, None]
            pulls.append(pull.ravel() - solved @ flat_rows[2 * strip.top : 2 * strip.bottom])
        # Shape and background, then columns, then rows.
        halfway = self.chain.forward(pulls)
        for pull, part in zip(halfway, self.divided, strict=True):
            pull_border -= part.T @ pull
        border = cho_solve(self.corner, pull_border, check_finite=False).astype(np.float32)
        alone = self.chain.divided(halfway)
        columns_step = self.chain.backward(
            [pull - part @ border for pull, part in zip(alone, self.divided, strict=True)]
        )
        flat_rows -= self.border.T @ border
        for strip, reach, change in zip(problem.strips, self.reaches, columns_step, strict=True):
            flat_rows[2 * strip.top : 2 * strip.bottom] -= reach.T @ change
        rows = np.einsum("ixy,iy->ix", self.inverse, flat_rows.reshape(-1, 2))[half:-half]
        columns = np.concatenate(columns_step, dtype=np.float64)
        return Step(columns.reshape(-1, 3), border.astype(np.float64), rows)

    def covariance(self) -> Covariance:
        """Blocks of the inverse of the whole matrix."""
        strips, half = self.problem.strips, self.problem.half
        outer: Single = cho_solve(self.corner, np.eye(len(self.corner[0])), check_finite=False).astype(np.float32)
        own_blocks, next_blocks = self.chain.inverse()
        found = self.chain.backward(self.divided)
        of_columns, mixed = [], []
        variance = self.inverse.diagonal(axis1=1, axis2=2).ravel()
        # How rows follow shape and background, directly and through the columns.
        follow = self.border_solved.copy()
        for number, (strip, v, solved) in enumerate(zip(strips, found, self.solveds, strict=True)):
            members = np.arange(len(strip))
            bent = (v @ outer).reshape(len(strip), 3, -1)
            whole = own_blocks[number].reshape(len(strip), 3, len(strip), 3)
            of_columns.append(whole[members, :, members] + bent @ v.reshape(len(strip), 3, -1).transpose(0, 2, 1))
            mixed.append(-bent[:, 2, :4])
            variance[2 * strip.top : 2 * strip.bottom] += _diagonal(solved, own_blocks[number], solved)
            follow[:, 2 * strip.top : 2 * strip.bottom] -= v.T @ solved
            if number + 1 == len(strips):
                break
            shared = 2 * (strip.bottom - strips[number + 1].top)
            if shared > 0:
                left, right = solved[:, -shared:], self.solveds[number + 1][:, :shared]
                variance[2 * strip.bottom - shared : 2 * strip.bottom] += 2.0 * _diagonal(
                    left, next_blocks[number], right
                )
        variance += _diagonal(follow, outer, follow)
        rows = variance.reshape(-1, 2)[half:-half]
        columns, heights = (np.concatenate(parts, dtype=np.float64) for parts in (of_columns, mixed))
        return Covariance(columns, outer[:4, :4].astype(np.float64), heights, rows)


def _precision(sigma: Array) -> Array:
    """(2,) inverse variances of the displacements' prior; 0 for those that stay where they are."""
    live = sigma > 0.0
    precision: Array = np.where(live, 1.0 / np.where(live, sigma, 1.0) ** 2, 0.0)
    return precision


def _border(
    problem: Problem, weight: Single, weighted: Single, products: Array, live: NDArray[np.bool_]
) -> tuple[Array, Single]:
    """Shape and background: their own normal equations, and their coupling to the rows of the padded image."""
    by, bx, half = problem.by, problem.bx_points, problem.half
    rows, ny, nx = len(weight), by.shape[1], bx.shape[1]
    corner = np.zeros((4 + ny * nx, 4 + ny * nx))
    corner[:4, :4] = products[:, :4, :4].sum(axis=0)
    across = (weighted @ bx.astype(np.float32)).astype(np.float64)
    corner[:4, 4:] = (by.T @ across[:4]).reshape(4, -1)
    corner[4:, :4] = corner[:4, 4:].T
    along = weight @ (bx[:, :, None] * bx[:, None, :]).reshape(-1, nx * nx).astype(np.float32)
    down = (by[:, :, None] * by[:, None, :]).reshape(rows, ny * ny)
    corner[4:, 4:] = (down.T @ along).reshape(ny, ny, nx, nx).transpose(0, 2, 1, 3).reshape(ny * nx, ny * nx)
    corner[3, 3] += TAIL_SHARE[1] ** -2
    to_rows = np.zeros((len(corner), rows + 2 * half, 2), dtype=np.float32)
    inside = slice(half, rows + half)
    to_rows[:4, inside] = products[:, :4, 4:].transpose(1, 0, 2)
    for axis in np.flatnonzero(live):
        to_rows[4:, inside, axis] = (by[:, :, None] * across[4 + axis, :, None, :]).reshape(rows, -1).T
    return corner, to_rows


def _diagonal(left: Single, block: Single, right: Single) -> Single:
    """Diagonal of left^T block right."""
    found: Single = (left * (block @ right)).sum(axis=0)
    return found


class _Chain:
    """A symmetric positive definite block-tridiagonal matrix A = L D L^T, in single precision.

    Inverse blocks of D, and the blocks beside the diagonal, which is of ones, of L^T.
    """

    def __init__(self, diagonal: list[Single], upper: list[Single]) -> None:
        self.inverses: list[Single] = []
        self.beside: list[Single] = []
        for number, block in enumerate(diagonal):
            if number:
                block = block - upper[number - 1].T @ self.beside[-1]
            self.inverses.append(_inverse(block))
            if number < len(upper):
                self.beside.append(self.inverses[-1] @ upper[number])

    def forward(self, sides: list[Single]) -> list[Single]:
        """Solutions of L y = side, by block."""
        found = [sides[0]]
        for beside, side in zip(self.beside, sides[1:], strict=True):
            found.append(side - beside.T @ found[-1])
        return found

    def divided(self, sides: list[Single]) -> list[Single]:
        """Solutions of D z = side, by block."""
        return [inverse @ side for inverse, side in zip(self.inverses, sides, strict=True)]

    def backward(self, sides: list[Single]) -> list[Single]:
        """Solutions of L^T x = side, by block."""
        found = [sides[-1]]
        for beside, side in zip(self.beside[::-1], sides[-2::-1], strict=True):
            found.append(side - beside @ found[-1])
        return found[::-1]

    def inverse(self) -> tuple[list[Single], list[Single]]:
        """Diagonal blocks of the inverse and the ones beside them (Takahashi's recursion, by block)."""
        own = [self.inverses[-1]]
        following: list[Single] = []
        for inverse, beside in zip(self.inverses[-2::-1], self.beside[::-1], strict=True):
            following.append(-beside @ own[-1])
            own.append(inverse - following[-1] @ beside.T)
        return own[::-1], following[::-1]


def _inverse(block: Single) -> Single:
    """Of a symmetric positive definite matrix.

    Raises:
        NotDefinite: it is not.
    """
    factor, wrong = torch.linalg.cholesky_ex(torch.from_numpy(0.5 * (block + block.T)))
    if wrong:
        raise NotDefinite
    inverse: Single = torch.cholesky_inverse(factor).numpy()
    return inverse
