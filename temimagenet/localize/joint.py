"""The joint model of `scan_aware`: image, derivatives, and the sparse normal equations of a Gauss-Newton step.

Unknowns: x, y and height of each column; the shape of the spot (an elliptic Gaussian and a wider one below it), the
same for all columns; a spline background; the displacement of the beam in each row. All lengths are in pixels.

A spot is many pixels wide. So spots are worked out at points along each row half their standard deviation apart, and
cubic splines through the points give the pixels. Image and gradients are those of the pixels. Gauss-Newton's matrix
takes sums over the points instead: products of derivatives are smooth. Rows cannot be thinned out: each has its own
displacement.

Rows meet only columns, two unknowns each, so they are eliminated first. What is left couples columns whose windows
share rows: ordered from top to bottom in strips a window high, a block-tridiagonal matrix, bordered by the few unknowns
of shape and background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline, make_interp_spline
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular
from scipy.spatial import KDTree

__all__ = [
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

_KNOT_PX = 100.0
_MOST_PIECES = 6

Result = TypeVar("Result")
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
        columns: for each strip, (M, 3, n, nx) derivatives by x, y and height of its columns in their windows.
        beam: (2, rows, points) derivatives by the displacement of the point's own row.
        forms: (4, rows, points) derivatives by the shape.
    """

    image: Array
    background: Array
    columns: list[Single]
    beam: Single
    forms: Single


@dataclass(eq=False)
class Strip:
    """Columns `first` to `last` and the rows `top` to `bottom` that their windows reach, in the padded image."""

    first: int
    last: int
    top: int
    bottom: int
    pairs: list[tuple[int, NDArray[np.int64], NDArray[np.int64], tuple[int, int]]] = field(default_factory=list)
    """Pairs of columns whose windows share pixels, by distance: the strip of the second (this one or the next), the
    numbers of both within their strips, and the distance (dx, dy) of their windows."""

    def __len__(self) -> int:
        """Number of columns."""
        return self.last - self.first


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
        anchor, anchor_precision: (K, 2) and (K,) centre and inverse variance of the prior of each column's position.
    """

    def __init__(
        self, values: Array, start: Array, width: float, reach: float = REACH, pool: Executor | None = None
    ) -> None:
        self.values, self.pool = values, pool
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

    def _strips(self) -> list[Strip]:
        """Columns from top to bottom in strips a window high: those of one share rows with those of the next only."""
        y = self.middle[:, 1]
        strips, first = [], 0
        while first < len(y):
            last = int(np.searchsorted(y, y[first] + self.n))
            strips.append(Strip(first, last, int(y[first]), int(y[last - 1]) + self.n))
            first = last
        number = np.repeat(np.arange(len(strips)), [len(strip) for strip in strips])
        # Every pair counts, however little it overlaps: without it the equations would not be those of any image.
        places = self.middle / (2.0 * self.half_x, 2.0 * self.half)
        pairs = np.sort(KDTree(places).query_pairs(1.0 + 1e-9, p=np.inf, output_type="ndarray"), axis=1)
        if len(pairs):
            one, other = pairs.T
            key = np.column_stack([number[one], number[other], self.middle[one] - self.middle[other]])
            kinds, kind = np.unique(key, axis=0, return_inverse=True)
            order = np.argsort(kind.ravel(), kind="stable")
            for members in np.split(order, np.searchsorted(kind.ravel()[order], np.arange(1, len(kinds)))):
                k, m = one[members], other[members]
                here, there, dx, dy = (int(v) for v in key[members[0]])
                strips[here].pairs.append((there, k - strips[here].first, m - strips[there].first, (dx, dy)))
        return strips

    def each(self, work: Callable[[int], Result]) -> Iterable[Result]:
        """What `work` makes of the number of each strip, in order, on the pool's threads if there is one."""
        numbers = range(len(self.strips))
        return self.pool.map(work, numbers) if self.pool else map(work, numbers)

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

    def framed(self, *images: NDArray[np.floating]) -> Single:
        """(C, rows, points) images in single precision with the frame of zeros."""
        high, wide = self.half, self.half_x
        rows, points = images[0].shape
        frame = np.zeros((len(images), rows + 2 * high, points + 2 * wide), dtype=np.float32)
        for place, image in zip(frame, images, strict=True):
            place[high:-high, wide:-wide] = image
        return frame

    def windows(self, framed: Single, strip: Strip) -> Single:
        """(M, C, n, nx) windows of framed images (C, ...) around a strip's columns."""
        n, nx = self.n, self.nx
        picked = np.empty((len(strip), len(framed), n, nx), dtype=np.float32)
        for k, (x, y) in enumerate(self.middle[strip.first : strip.last].tolist()):
            picked[k] = framed[:, y : y + n, x : x + nx]
        return picked

    def look(self, state: State) -> Model:
        """The image and its derivatives at a state."""
        half, wide, n, nx = self.half, self.half_x, self.n, self.nx
        rows, points = len(self.values), len(self.between)
        shift = np.pad(state.shift, ((half, half), (0, 0)))
        a, b, c, w = (np.float32(value) for value in state.shape)
        # Splines ring where windows end, unless they end softly.
        ends = np.ones(nx, dtype=np.float32)
        ends[[0, -1]], ends[[1, -2]] = 0.25, 0.75

        def draw(number: int) -> tuple[Single, Single]:
            """Derivatives of a strip's columns, and its rows of the seven images."""
            strip = self.strips[number]
            part = slice(strip.first, strip.last)
            middle = self.middle[part]
            moved = shift[middle[:, 1, None] + np.arange(n)]
            away = middle * (self.spacing, 1.0) - state.xy[part]
            along, down = np.arange(-wide, wide + 1) * self.spacing, np.arange(-half, half + 1)
            u = (along + away[:, 0, None])[:, None, :] + moved[:, :, 0, None]
            u = u.astype(np.float32)
            v = (down + away[:, 1, None] + moved[:, :, 1])[:, :, None].astype(np.float32)
            height = state.height[part].astype(np.float32)[:, None, None]
            x_part, y_part = a * u + b * v, b * u + c * v
            tail = np.exp(np.float32(-0.5 / TAIL**2) * (u * x_part + v * y_part))
            tail *= ends
            # The narrow Gaussian is the wide one to the fourth power.
            core = np.square(np.square(tail))
            spot = (1.0 - w) * core + w * tail
            slope = (core * (1.0 - w) + tail * np.float32(w / TAIL**2)) * height
            found = np.empty((len(strip), 3, n, nx), dtype=np.float32)
            np.multiply(slope, x_part, out=found[:, 0])
            np.multiply(slope, y_part, out=found[:, 1])
            found[:, 2] = spot
            fields = np.empty((len(strip), 7, n, nx), dtype=np.float32)
            np.multiply(spot, height, out=fields[:, 0])
            np.negative(found[:, 0], out=fields[:, 1])
            np.negative(found[:, 1], out=fields[:, 2])
            slope *= -0.5
            np.multiply(slope, u * u, out=fields[:, 3])
            np.multiply(slope * v, 2.0 * u, out=fields[:, 4])
            np.multiply(slope, v * v, out=fields[:, 5])
            np.multiply(tail - core, height, out=fields[:, 6])
            drawn = np.zeros((7, strip.bottom - strip.top, points + 2 * wide), dtype=np.float32)
            for k, (x, y) in enumerate((middle - (0, strip.top)).tolist()):
                drawn[:, y : y + n, x : x + nx] += fields[k]
            return found, drawn

        columns = []
        total = np.zeros((7, rows + 2 * half, points + 2 * wide), dtype=np.float32)
        for strip, (found, drawn) in zip(self.strips, self.each(draw), strict=True):
            columns.append(found)
            total[:, strip.top : strip.bottom] += drawn
        total = total[:, half:-half, wide:-wide]
        background = self.by @ state.weights.reshape(self.by.shape[1], -1) @ self.bx.T
        return Model(background + self.at_pixels(total[0]), background, columns, total[1:3], total[3:])


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
        self, problem: Problem, model: Model, state: State, weight: Array, sigma: Array, damping: float = 0.0
    ) -> None:
        """Assemble and factorise.

        Args:
            problem: the image.
            model: its model at the state.
            state: where the equations are taken.
            weight: (rows, columns) inverse variance of the pixels.
            sigma: (2,) prior standard deviation of the displacements; 0 keeps them where they are.
            damping: share by which the diagonal of columns, shape and background is raised.

        Raises:
            NotDefinite: the equations are singular.
        """
        half, rows = problem.half, len(problem.values)
        self.problem = problem
        self.damping = damping
        self.live = sigma > 0.0
        self.precision = _precision(sigma)
        # Rows by rows; those in the frame stay zero.
        beam = self._beam(model)
        # The products of smooth derivatives are smooth: sums over points are those over pixels.
        at_points = problem.at_points(weight)
        weighted = beam * at_points
        own = np.empty((rows, 2, 2))
        for x, y in ((0, 0), (0, 1), (1, 1)):
            own[:, x, y] = own[:, y, x] = np.einsum("ij,ij->i", weighted[x], beam[y])
        own += np.diag(np.where(self.live, self.precision, 1.0))
        self.inverse = np.zeros((rows + 2 * half, 2, 2))
        self.inverse[half:-half] = np.linalg.inv(own)
        # Shape and background by themselves and by rows.
        corner, border = _border(problem, model, at_points, weighted)
        size = len(corner)
        corner += damping * np.diag(np.diag(corner))
        self.border = border.reshape(size, -1)
        self.border_solved = np.einsum("gix,ixy->giy", border, self.inverse).reshape(size, -1)
        corner -= self.border_solved @ self.border.T
        # Columns by everything, strip by strip.
        framed = problem.framed(at_points, *beam, *model.forms)
        parts = list(problem.each(lambda number: self._strip(number, model, framed, border, damping)))
        self.reaches, self.solveds, self.sides, diagonal = ([part[k] for part in parts] for k in range(4))
        upper = [self._between(number, part[4]) for number, part in enumerate(parts[:-1])]
        self.chain = _Chain(diagonal, upper)
        self.found = self.chain.forward(self.sides)
        for part in self.found:
            corner -= part.T @ part
        try:
            self.corner = cho_factor(0.5 * (corner + corner.T), check_finite=False)
        except LinAlgError as error:
            raise NotDefinite from error

    def _strip(
        self, number: int, model: Model, framed: Single, border: Array, damping: float
    ) -> tuple[Array, Array, Array, Array, Array]:
        """Of one strip's columns: coupling to its rows, the same after the rows' own equations are solved, coupling to
        shape and background, to each other, all without the rows, and to the columns of the next strip."""
        problem, n = self.problem, self.problem.n
        strip, columns = problem.strips[number], model.columns[number]
        count, size = len(strip), len(border)
        everyone = np.arange(count)
        around = problem.windows(framed, strip)
        weighed = columns * around[:, :1]
        reach = np.zeros((count, 3, strip.bottom - strip.top, 2))
        placed = problem.middle[strip.first : strip.last, 1, None] + np.arange(n) - strip.top
        for p in range(3):
            for x in range(2):
                reach[everyone[:, None], p, placed, x] = np.einsum("kij,kij->ki", weighed[:, p], around[:, 1 + x])
        here = slice(strip.top, strip.bottom)
        solved = np.einsum("kpix,ixy->kpiy", reach, self.inverse[here], optimize=True).reshape(3 * count, -1)
        flat, flat_weighed = columns.reshape(count, 3, -1), weighed.reshape(count, 3, -1)
        own = (flat_weighed @ flat.transpose(0, 2, 1)).astype(np.float64)
        own += damping * own * np.eye(3)
        own[:, [0, 1], [0, 1]] += problem.anchor_precision[strip.first : strip.last, None]
        block = np.zeros((count, 3, count, 3))
        block[everyone, :, everyone] = own
        across = _pairs(problem, model, number, weighed, block)
        flat_reach = reach.reshape(3 * count, -1)
        side = np.empty((count, 3, size))
        side[:, :, :4] = flat_weighed @ around[:, 3:].reshape(count, 4, -1).transpose(0, 2, 1)
        along = weighed.reshape(count, -1, problem.nx) @ problem.bx_windows[strip.first : strip.last]
        down = problem.by_windows[strip.first : strip.last].transpose(0, 2, 1)
        side[:, :, 4:] = (down[:, None] @ along.reshape(count, 3, n, -1)).reshape(count, 3, -1)
        without_rows = side.reshape(3 * count, -1) - solved @ border[:, here].reshape(size, -1).T
        return flat_reach, solved, without_rows, block.reshape(3 * count, -1) - solved @ flat_reach.T, across

    def _between(self, number: int, across: Array) -> Array:
        """What couples one strip's columns to those of the next, without the rows."""
        shared = self.problem.strips[number].bottom - self.problem.strips[number + 1].top
        if shared <= 0:
            return across
        coupled: Array = across - self.solveds[number][:, -2 * shared :] @ self.reaches[number + 1][:, : 2 * shared].T
        return coupled

    def _beam(self, model: Model) -> Single:
        """Derivatives by the displacements that may change."""
        return model.beam * self.live[:, None, None].astype(np.float32)

    def step(self, model: Model, state: State, weight: Array, sigma: Array) -> Step:
        """The step from a state and a prior, these or some close to them: gradients are their own."""
        problem, half = self.problem, self.problem.half
        left = weight * (problem.values - model.image)
        pulled = problem.at_points(left).astype(np.float64)
        pull_rows = np.zeros((len(self.inverse), 2))
        pull_rows[half:-half] = np.einsum("xij,ij->ix", self._beam(model), pulled) - state.shift * _precision(sigma)
        flat_rows = pull_rows.ravel()
        pull_border = np.concatenate(
            [np.einsum("aij,ij->a", model.forms, pulled), (problem.by.T @ left @ problem.bx).ravel()]
        )
        pull_border[3] += (TAIL_SHARE[0] - state.shape[3]) * TAIL_SHARE[1] ** -2
        pull_border -= self.border_solved @ flat_rows
        framed = problem.framed(pulled)
        pulls = []
        for strip, columns, solved in zip(problem.strips, model.columns, self.solveds, strict=True):
            around = problem.windows(framed, strip).reshape(len(strip), -1, 1)
            pull = (columns.reshape(len(strip), 3, -1) @ around)[..., 0].astype(np.float64)
            here = slice(strip.first, strip.last)
            pull[:, :2] += (problem.anchor[here] - state.xy[here]) * problem.anchor_precision[here, None]
            pulls.append(pull.ravel() - solved @ flat_rows[2 * strip.top : 2 * strip.bottom])
        # Shape and background, then columns, then rows.
        halfway = self.chain.forward([pull[:, None] for pull in pulls])
        for pull, part in zip(halfway, self.found, strict=True):
            pull_border -= part.T @ pull[:, 0]
        border = cho_solve(self.corner, pull_border, check_finite=False)
        columns_step = self.chain.backward(
            [pull[:, 0] - part @ border for pull, part in zip(halfway, self.found, strict=True)]
        )
        flat_rows = flat_rows - self.border.T @ border
        for strip, reach, change in zip(problem.strips, self.reaches, columns_step, strict=True):
            flat_rows[2 * strip.top : 2 * strip.bottom] -= reach.T @ change
        rows = np.einsum("ixy,iy->ix", self.inverse, flat_rows.reshape(-1, 2))[half:-half]
        return Step(np.concatenate(columns_step).reshape(-1, 3), border, rows)

    def covariance(self) -> Covariance:
        """Blocks of the inverse of the whole matrix."""
        strips, half = self.problem.strips, self.problem.half
        outer = cho_solve(self.corner, np.eye(len(self.corner[0])), check_finite=False)
        own_blocks, next_blocks = self.chain.inverse()
        found = self.chain.backward(self.found)
        of_columns, mixed = [], []
        variance = self.inverse.copy()
        # How rows follow shape and background, directly and through the columns.
        follow = self.border_solved.copy()
        for number, (strip, v, solved) in enumerate(zip(strips, found, self.solveds, strict=True)):
            members = np.arange(len(strip))
            bent = (v @ outer).reshape(len(strip), 3, -1)
            whole = own_blocks[number].reshape(len(strip), 3, len(strip), 3)
            of_columns.append(whole[members, :, members] + bent @ v.reshape(len(strip), 3, -1).transpose(0, 2, 1))
            mixed.append(-bent[:, 2, :4])
            variance[strip.top : strip.bottom] += _between_rows(solved, own_blocks[number], solved)
            follow[:, 2 * strip.top : 2 * strip.bottom] -= v.T @ solved
            if number + 1 == len(strips):
                break
            shared = strip.bottom - strips[number + 1].top
            if shared > 0:
                left, right = solved[:, -2 * shared :], self.solveds[number + 1][:, : 2 * shared]
                part = _between_rows(left, next_blocks[number], right)
                variance[strip.bottom - shared : strip.bottom] += part + part.transpose(0, 2, 1)
        variance += np.einsum(
            "gix,giy->ixy", follow.reshape(len(outer), -1, 2), (outer @ follow).reshape(len(outer), -1, 2)
        )
        rows = variance.diagonal(axis1=1, axis2=2)[half:-half].copy()
        return Covariance(np.concatenate(of_columns), outer[:4, :4], np.concatenate(mixed), rows)


def _precision(sigma: Array) -> Array:
    """(2,) inverse variances of the displacements' prior; 0 for those that stay where they are."""
    live = sigma > 0.0
    precision: Array = np.where(live, 1.0 / np.where(live, sigma, 1.0) ** 2, 0.0)
    return precision


def _border(problem: Problem, model: Model, weight: Single, weighted_beam: Single) -> tuple[Array, Array]:
    """Shape and background: their own normal equations, and their coupling to the rows of the framed image."""
    by, bx, half = problem.by, problem.bx_points, problem.half
    rows, ny, nx = len(weight), by.shape[1], bx.shape[1]
    single = bx.astype(np.float32)
    weighted = model.forms * weight
    corner = np.zeros((4 + ny * nx, 4 + ny * nx))
    corner[:4, :4] = np.einsum("aij,bij->abi", weighted, model.forms).sum(axis=-1, dtype=np.float64)
    corner[:4, 4:] = (by.T @ (weighted @ single).astype(np.float64)).reshape(4, -1)
    corner[4:, :4] = corner[:4, 4:].T
    along = weight @ (bx[:, :, None] * bx[:, None, :]).reshape(-1, nx * nx)
    down = (by[:, :, None] * by[:, None, :]).reshape(rows, ny * ny)
    corner[4:, 4:] = (down.T @ along).reshape(ny, ny, nx, nx).transpose(0, 2, 1, 3).reshape(ny * nx, ny * nx)
    corner[3, 3] += TAIL_SHARE[1] ** -2
    to_rows = np.zeros((len(corner), rows + 2 * half, 2))
    inside = slice(half, rows + half)
    to_rows[:4, inside] = np.einsum("aij,xij->aix", model.forms, weighted_beam)
    for axis in range(2):
        across = weighted_beam[axis] @ single
        to_rows[4:, inside, axis] = (by[:, :, None] * across[:, None, :]).reshape(rows, -1).T
    return corner, to_rows


def _pairs(problem: Problem, model: Model, number: int, weighed: Single, block: Array) -> Array:
    """Add pairs within a strip to its (M, 3, M, 3) block, and give those with the next strip."""
    n, nx, strip = problem.n, problem.nx, problem.strips[number]
    following = len(problem.strips[number + 1]) if number + 1 < len(problem.strips) else 0
    across = np.zeros((len(strip), 3, following, 3))
    for other, k, m, (dx, dy) in strip.pairs:
        i0, i1, j0, j1 = max(0, -dy), n - max(0, dy), max(0, -dx), nx - max(0, dx)
        left = weighed[k, :, i0:i1, j0:j1].reshape(len(k), 3, -1)
        right = model.columns[other][m, :, i0 + dy : i1 + dy, j0 + dx : j1 + dx].reshape(len(k), 3, -1)
        both = left @ right.transpose(0, 2, 1)
        if other == number:
            block[k, :, m] += both
            block[m, :, k] += both.transpose(0, 2, 1)
        else:
            across[k, :, m] += both
    return across.reshape(3 * len(strip), -1)


def _between_rows(left: Array, block: Array, right: Array) -> Array:
    """(R, 2, 2) diagonal blocks of left^T block right."""
    rows = left.shape[1] // 2
    product = (block @ right).reshape(len(left), rows, 2)
    found: Array = np.einsum("pix,piy->ixy", left.reshape(len(left), rows, 2), product)
    return found


class _Chain:
    """A symmetric positive definite block-tridiagonal matrix A = L L^T.

    Lower factors of the diagonal blocks, and the blocks beside them, of L^T.
    """

    def __init__(self, diagonal: list[Array], upper: list[Array]) -> None:
        self.factors: list[Array] = []
        self.beside: list[Array] = []
        for number, block in enumerate(diagonal):
            if number:
                block = block - self.beside[-1].T @ self.beside[-1]
            try:
                self.factors.append(cholesky(0.5 * (block + block.T), lower=True, check_finite=False))
            except LinAlgError as error:
                raise NotDefinite from error
            if number < len(upper):
                self.beside.append(_solve_lower(self.factors[-1], upper[number]))

    def forward(self, sides: list[Array]) -> list[Array]:
        """Solutions of L y = side, by block."""
        found = [_solve_lower(self.factors[0], sides[0])]
        for factor, beside, side in zip(self.factors[1:], self.beside, sides[1:], strict=True):
            found.append(_solve_lower(factor, side - beside.T @ found[-1]))
        return found

    def backward(self, sides: list[Array]) -> list[Array]:
        """Solutions of L^T x = side, by block."""
        found = [_solve_upper(self.factors[-1], sides[-1])]
        for factor, beside, side in zip(self.factors[-2::-1], self.beside[::-1], sides[-2::-1], strict=True):
            found.append(_solve_upper(factor, side - beside @ found[-1]))
        return found[::-1]

    def inverse(self) -> tuple[list[Array], list[Array]]:
        """Diagonal blocks of the inverse and the ones beside them (Takahashi's recursion, by block)."""
        own = [_inverse(self.factors[-1])]
        following: list[Array] = []
        for factor, beside in zip(self.factors[-2::-1], self.beside[::-1], strict=True):
            along = _solve_upper(factor, beside)
            following.append(-along @ own[-1])
            own.append(_inverse(factor) - following[-1] @ along.T)
        return own[::-1], following[::-1]


def _solve_lower(factor: Array, side: Array) -> Array:
    """L^-1 side."""
    found: Array = solve_triangular(factor, side, lower=True, check_finite=False)
    return found


def _solve_upper(factor: Array, side: Array) -> Array:
    """L^-T side."""
    found: Array = solve_triangular(factor, side, lower=True, trans="T", check_finite=False)
    return found


def _inverse(factor: Array) -> Array:
    """(L L^T)^-1."""
    found: Array = cho_solve((factor, True), np.eye(len(factor)), check_finite=False)
    return found
