"""The joint model of `scan_aware`: image, derivatives, and the sparse normal equations of a Gauss-Newton step.

Unknowns: x, y and height of each column; the shape of the spot (an elliptic Gaussian and a wider one below it), the
same for all columns; a spline background; the displacement of the beam in each row. All lengths are in pixels.

Rows meet only columns, two unknowns each, so they are eliminated first. What is left couples columns whose windows
share rows: ordered from top to bottom in strips a window high, a block-tridiagonal matrix, bordered by the few unknowns
of shape and background.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import KDTree

__all__ = ["TAIL", "Covariance", "Model", "NotDefinite", "Problem", "State", "Step", "solve"]

TAIL = 2.0
"""The spot is a Gaussian and a small one this much wider: within 0.3 % of the peak for common probes and sources."""

TAIL_SHARE = (0.04, 0.02)
"""Mean and standard deviation of the prior of the wider one's share of the height."""

_REACH = 3.5
"""Half edge of a column's window in standard deviations of the spot."""

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
        columns: for each strip, (M, 3, n, n) derivatives by x, y and height of its columns in their windows.
        beam: (2, rows, columns) derivatives by the displacement of the pixel's own row.
        forms: (4, rows, columns) derivatives by the shape.
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
    """One image, its windows, splines, strips and pairs; windows may reach into a frame of zeros around it."""

    def __init__(self, values: Array, start: Array, width: float) -> None:
        self.values = values
        self.half = max(3, int(np.ceil(_REACH * width)))
        self.n = 2 * self.half + 1
        self.order = np.argsort(start[:, 1], kind="stable")
        start = start[self.order]
        self.middle = np.rint(start).astype(np.int64)
        self.by, self.bx = _splines(values.shape[0]), _splines(values.shape[1])
        # A window's rows of the splines, zero beyond the image.
        pad = ((self.half, self.half), (0, 0))
        windows = np.arange(self.n)
        self.by_windows = np.pad(self.by, pad)[self.middle[:, 1, None] + windows].astype(np.float32)
        self.bx_windows = np.pad(self.bx, pad)[self.middle[:, 0, None] + windows].astype(np.float32)
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
        pairs = np.sort(KDTree(self.middle).query_pairs(2.0 * self.half, p=np.inf, output_type="ndarray"), axis=1)
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

    def framed(self, *images: NDArray[np.floating]) -> Single:
        """(C, rows, columns) images in single precision with the frame of zeros."""
        rows, cols = self.values.shape
        frame = np.zeros((len(images), rows + 2 * self.half, cols + 2 * self.half), dtype=np.float32)
        for place, image in zip(frame, images, strict=True):
            place[self.half : -self.half, self.half : -self.half] = image
        return frame

    def windows(self, framed: Single, strip: Strip) -> Single:
        """(M, C, n, n) windows of framed images (C, ...) around a strip's columns."""
        n = self.n
        picked = np.empty((len(strip), len(framed), n, n), dtype=np.float32)
        for k, (x, y) in enumerate(self.middle[strip.first : strip.last].tolist()):
            picked[k] = framed[:, y : y + n, x : x + n]
        return picked

    def look(self, state: State) -> Model:
        """The image and its derivatives at a state."""
        half, n = self.half, self.n
        rows, cols = self.values.shape
        total = np.zeros((7, rows + 2 * half, cols + 2 * half), dtype=np.float32)
        shift = np.pad(state.shift, ((half, half), (0, 0)))
        steps = np.arange(-half, half + 1)
        a, b, c, w = (np.float32(value) for value in state.shape)
        columns = []
        for strip in self.strips:
            part = slice(strip.first, strip.last)
            middle = self.middle[part]
            moved = shift[middle[:, 1, None] + np.arange(n)]
            away = middle - state.xy[part]
            u = (steps + away[:, 0, None])[:, None, :] + moved[:, :, 0, None]
            u = u.astype(np.float32)
            v = (steps + away[:, 1, None] + moved[:, :, 1])[:, :, None].astype(np.float32)
            height = state.height[part].astype(np.float32)[:, None, None]
            x_part, y_part = a * u + b * v, b * u + c * v
            tail = np.exp(np.float32(-0.5 / TAIL**2) * (u * x_part + v * y_part))
            # The narrow Gaussian is the wide one to the fourth power.
            core = np.square(np.square(tail))
            spot = (1.0 - w) * core + w * tail
            slope = (core * (1.0 - w) + tail * np.float32(w / TAIL**2)) * height
            found = np.empty((len(strip), 3, n, n), dtype=np.float32)
            np.multiply(slope, x_part, out=found[:, 0])
            np.multiply(slope, y_part, out=found[:, 1])
            found[:, 2] = spot
            columns.append(found)
            fields = np.empty((len(strip), 7, n, n), dtype=np.float32)
            np.multiply(spot, height, out=fields[:, 0])
            np.negative(found[:, 0], out=fields[:, 1])
            np.negative(found[:, 1], out=fields[:, 2])
            slope *= -0.5
            np.multiply(slope, u * u, out=fields[:, 3])
            np.multiply(slope * v, 2.0 * u, out=fields[:, 4])
            np.multiply(slope, v * v, out=fields[:, 5])
            np.multiply(tail - core, height, out=fields[:, 6])
            for k, (x, y) in enumerate(middle.tolist()):
                total[:, y : y + n, x : x + n] += fields[k]
        total = total[:, half:-half, half:-half]
        background = self.by @ state.weights.reshape(self.by.shape[1], -1) @ self.bx.T
        return Model(background + total[0], background, columns, total[1:3], total[3:])


def _splines(count: int) -> Array:
    """(count, n) cubic B-splines that span an axis of pixels, a knot every hundred pixels, seven at most."""
    pieces = min(max(1, round(count / _KNOT_PX)), _MOST_PIECES)
    knots = np.concatenate([[0.0] * 3, np.linspace(0.0, count - 1.0, pieces + 1), [count - 1.0] * 3])
    basis: Array = BSpline.design_matrix(np.arange(float(count)), knots, 3).toarray()
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
    """One solution of the normal equations: changes of all unknowns, and their covariance where it was asked for.

    Attributes:
        columns: (K, 3) x, y, height.
        border: (G,) shape (4), background.
        rows: (R, 2) displacements.
        covariance: of the posterior.
    """

    columns: Array
    border: Array
    rows: Array
    covariance: Covariance | None


def solve(
    problem: Problem,
    model: Model,
    state: State,
    weight: Array,
    sigma: Array,
    damping: float,
    *,
    covariance: bool = False,
) -> Step:
    """Assemble and solve the Gauss-Newton normal equations of the posterior.

    Args:
        problem: the image.
        model: its model at the current state.
        state: the current state.
        weight: (rows, columns) inverse variance of the pixels.
        sigma: (2,) prior standard deviation of the displacements; 0 keeps them where they are.
        damping: share by which the diagonal of columns, shape and background is raised.
        covariance: whether to find the covariance as well.

    Raises:
        NotDefinite: the equations are singular.
    """
    half, n, strips = problem.half, problem.n, problem.strips
    residual = problem.values - model.image
    pulled = weight * residual
    rows = len(residual)
    live = sigma > 0.0
    precision = np.where(live, 1.0 / np.where(live, sigma, 1.0) ** 2, 0.0)
    # Rows by rows; those in the frame stay zero.
    beam = model.beam * live[:, None, None].astype(np.float32)
    weighted = beam * weight.astype(np.float32)
    own = np.empty((rows, 2, 2))
    for x, y in ((0, 0), (0, 1), (1, 1)):
        own[:, x, y] = own[:, y, x] = np.einsum("ij,ij->i", weighted[x], beam[y])
    own += np.diag(np.where(live, precision, 1.0))
    inverse = np.zeros((rows + 2 * half, 2, 2))
    inverse[half:-half] = np.linalg.inv(own)
    pull_rows = np.zeros((rows + 2 * half, 2))
    pull_rows[half:-half] = np.einsum("xij,ij->ix", beam, pulled) - state.shift * precision
    # Shape and background by themselves and by rows.
    corner, pull_border, border = _border(problem, model, state, weight, weighted, pulled)
    size = len(pull_border)
    corner += damping * np.diag(np.diag(corner))
    border_solved = np.einsum("gix,ixy->giy", border, inverse)
    flat_border, flat_solved = border.reshape(size, -1), border_solved.reshape(size, -1)
    corner -= flat_solved @ flat_border.T
    pull_border -= flat_solved @ pull_rows.ravel()
    # Columns by everything, strip by strip.
    framed = problem.framed(weight, pulled, *beam, *model.forms)
    diagonal, sides, reaches, solveds, parts = [], [], [], [], []
    for strip, columns in zip(strips, model.columns, strict=True):
        members = len(strip)
        around = problem.windows(framed, strip)
        weighed = columns * around[:, :1]
        parts.append(weighed)
        reach = np.zeros((members, 3, strip.bottom - strip.top, 2))
        placed = problem.middle[strip.first : strip.last, 1, None] + np.arange(n) - strip.top
        everyone = np.arange(members)[:, None]
        for p in range(3):
            for x in range(2):
                reach[everyone, p, placed, x] = np.einsum("kij,kij->ki", weighed[:, p], around[:, 2 + x])
        here = slice(strip.top, strip.bottom)
        reaches.append(reach.reshape(3 * members, -1))
        solveds.append(np.einsum("kpix,ixy->kpiy", reach, inverse[here], optimize=True).reshape(3 * members, -1))
        flat, flat_weighed = columns.reshape(members, 3, -1), weighed.reshape(members, 3, -1)
        blocks = (flat_weighed @ flat.transpose(0, 2, 1)).astype(np.float64)
        blocks += damping * blocks * np.eye(3)
        block = np.zeros((members, 3, members, 3))
        block[np.arange(members), :, np.arange(members)] = blocks
        diagonal.append(block)
        side = np.empty((members, 3, size + 1))
        side[:, :, :4] = flat_weighed @ around[:, 4:].reshape(members, 4, -1).transpose(0, 2, 1)
        along = weighed.reshape(members, -1, n) @ problem.bx_windows[strip.first : strip.last]
        down = problem.by_windows[strip.first : strip.last].transpose(0, 2, 1)
        side[:, :, 4:-1] = (down[:, None] @ along.reshape(members, 3, n, -1)).reshape(members, 3, -1)
        side[:, :, -1] = (flat @ around[:, 1].reshape(members, -1, 1))[..., 0]
        rows_side = np.concatenate([border[:, here].reshape(size, -1), pull_rows[here].reshape(1, -1)])
        sides.append(side.reshape(3 * members, -1) - solveds[-1] @ rows_side.T)
    upper = _couple(problem, model, parts, diagonal, reaches, solveds)
    chain = _Chain(
        [
            block.reshape(len(reach), -1) - solved @ reach.T
            for block, solved, reach in zip(diagonal, solveds, reaches, strict=True)
        ],
        upper,
    )
    found = chain.solve(sides)
    # Shape and background, then columns, then rows.
    for side, part in zip(sides, found, strict=True):
        corner -= part[:, :-1].T @ side[:, :-1]
        pull_border -= part[:, :-1].T @ side[:, -1]
    corner = 0.5 * (corner + corner.T)
    step_border = np.asarray(np.linalg.solve(corner, pull_border), dtype=np.float64)
    steps = [part[:, -1] - part[:, :-1] @ step_border for part in found]
    left = pull_rows.ravel() - flat_border.T @ step_border
    for strip, to_rows, step in zip(strips, reaches, steps, strict=True):
        left[2 * strip.top : 2 * strip.bottom] -= to_rows.T @ step
    step_rows = np.einsum("ixy,iy->ix", inverse, left.reshape(-1, 2))[half:-half]
    spread = _covariance(problem, chain, corner, inverse, found, solveds, flat_solved) if covariance else None
    return Step(np.concatenate(steps).reshape(-1, 3), step_border, step_rows, spread)


def _border(
    problem: Problem, model: Model, state: State, weight: Array, weighted_beam: Array, pulled: Array
) -> tuple[Array, Array, Array]:
    """Shape and background: their own normal equations, gradient, and coupling to the rows of the framed image."""
    by, bx, half = problem.by, problem.bx, problem.half
    rows, ny, nx = len(weight), by.shape[1], bx.shape[1]
    size = 4 + ny * nx
    forms = model.forms
    weighted = forms * weight.astype(np.float32)
    corner = np.zeros((size, size))
    corner[:4, :4] = np.einsum("aij,bij->abi", weighted, forms, optimize=False).sum(axis=-1, dtype=np.float64)
    corner[:4, 4:] = (by.T @ (weighted @ bx.astype(np.float32)).astype(np.float64)).reshape(4, -1)
    corner[4:, :4] = corner[:4, 4:].T
    along = weight @ (bx[:, :, None] * bx[:, None, :]).reshape(-1, nx * nx)
    down = (by[:, :, None] * by[:, None, :]).reshape(rows, ny * ny)
    corner[4:, 4:] = (down.T @ along).reshape(ny, ny, nx, nx).transpose(0, 2, 1, 3).reshape(ny * nx, ny * nx)
    corner[3, 3] += TAIL_SHARE[1] ** -2
    pull = np.concatenate([np.einsum("aij,ij->a", forms, pulled), (by.T @ pulled @ bx).ravel()])
    pull[3] += (TAIL_SHARE[0] - state.shape[3]) * TAIL_SHARE[1] ** -2
    to_rows = np.zeros((size, rows + 2 * half, 2))
    inside = slice(half, rows + half)
    to_rows[:4, inside] = np.einsum("aij,xij->aix", forms, weighted_beam)
    for axis in range(2):
        across = weighted_beam[axis] @ bx.astype(np.float32)
        to_rows[4:, inside, axis] = (by[:, :, None] * across[:, None, :]).reshape(rows, -1).T
    return corner, pull, to_rows


def _couple(
    problem: Problem,
    model: Model,
    parts: list[Single],
    diagonal: list[Array],
    reaches: list[Array],
    solveds: list[Array],
) -> list[Array]:
    """Add pairs within a strip to its (M, 3, M, 3) block, and give the blocks between a strip and the next."""
    n, strips = problem.n, problem.strips
    upper = []
    for number, strip in enumerate(strips):
        last = number + 1 == len(strips)
        across = np.zeros((len(strip), 3, 0 if last else len(strips[number + 1]), 3))
        for other, k, m, (dx, dy) in strip.pairs:
            i0, i1, j0, j1 = max(0, -dy), n - max(0, dy), max(0, -dx), n - max(0, dx)
            left = parts[number][k, :, i0:i1, j0:j1].reshape(len(k), 3, -1)
            right = model.columns[other][m, :, i0 + dy : i1 + dy, j0 + dx : j1 + dx].reshape(len(k), 3, -1)
            both = left @ right.transpose(0, 2, 1)
            if other == number:
                diagonal[number][k, :, m] += both
                diagonal[number][m, :, k] += both.transpose(0, 2, 1)
            else:
                across[k, :, m] += both
        if last:
            break
        below = strips[number + 1]
        common = across.reshape(3 * len(strip), -1)
        shared = strip.bottom - below.top
        if shared > 0:
            common = common - solveds[number][:, -2 * shared :] @ reaches[number + 1][:, : 2 * shared].T
        upper.append(common)
    return upper


def _covariance(
    problem: Problem,
    chain: _Chain,
    corner: Array,
    inverse: Array,
    found: list[Array],
    solveds: list[Array],
    flat_solved: Array,
) -> Covariance:
    """Blocks of the inverse of the whole matrix, from the factors of the eliminated one."""
    outer = np.asarray(np.linalg.inv(corner), dtype=np.float64)
    strips, half = problem.strips, problem.half
    own_blocks, next_blocks = chain.inverse()
    of_columns, mixed = [], []
    variance = inverse.copy()
    # How rows follow shape and background, directly and through the columns.
    follow = flat_solved.copy()
    for number, (strip, side, solved) in enumerate(zip(strips, found, solveds, strict=True)):
        members = np.arange(len(strip))
        v = side[:, :-1]
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
            part = _between_rows(solved[:, -2 * shared :], next_blocks[number], solveds[number + 1][:, : 2 * shared])
            variance[strip.bottom - shared : strip.bottom] += part + part.transpose(0, 2, 1)
    follow_rows = follow.reshape(len(outer), -1, 2)
    bent_rows = (outer @ follow).reshape(follow_rows.shape)
    variance += np.einsum("gix,giy->ixy", follow_rows, bent_rows)
    rows = variance.diagonal(axis1=1, axis2=2)[half:-half].copy()
    return Covariance(np.concatenate(of_columns), outer[:4, :4], np.concatenate(mixed), rows)


def _between_rows(left: Array, block: Array, right: Array) -> Array:
    """(R, 2, 2) diagonal blocks of left^T block right."""
    rows = left.shape[1] // 2
    product = (block @ right).reshape(len(left), rows, 2)
    found: Array = np.einsum("pix,piy->ixy", left.reshape(len(left), rows, 2), product)
    return found


class _Chain:
    """A symmetric positive definite block-tridiagonal matrix, factorised by block Gaussian elimination."""

    def __init__(self, diagonal: list[Array], upper: list[Array]) -> None:
        self.factors: list[tuple[Array, bool]] = []
        self.forward: list[Array] = []
        for number, block in enumerate(diagonal):
            if number:
                block = block - upper[number - 1].T @ self.forward[-1]
            try:
                self.factors.append(cho_factor(0.5 * (block + block.T), check_finite=False))
            except np.linalg.LinAlgError as error:
                raise NotDefinite from error
            if number < len(upper):
                self.forward.append(cho_solve(self.factors[-1], upper[number], check_finite=False))

    def solve(self, sides: list[Array]) -> list[Array]:
        """Solutions for right-hand sides given by block."""
        carried = [sides[0]]
        for number in range(1, len(sides)):
            carried.append(sides[number] - self.forward[number - 1].T @ carried[-1])
        found = [cho_solve(self.factors[-1], carried[-1], check_finite=False)]
        for number in range(len(sides) - 2, -1, -1):
            own = cho_solve(self.factors[number], carried[number], check_finite=False)
            found.append(own - self.forward[number] @ found[-1])
        return found[::-1]

    def inverse(self) -> tuple[list[Array], list[Array]]:
        """Diagonal blocks of the inverse and the ones beside them (Takahashi's recursion, by block)."""
        own = [cho_solve(self.factors[-1], np.eye(len(self.factors[-1][0])), check_finite=False)]
        beside: list[Array] = []
        for number in range(len(self.factors) - 2, -1, -1):
            beside.append(-self.forward[number] @ own[-1])
            start = cho_solve(self.factors[number], np.eye(len(self.factors[number][0])), check_finite=False)
            own.append(start - beside[-1] @ self.forward[number].T)
        return own[::-1], beside[::-1]
