"""`fit_scan_aware`: all columns, the background and the beam's displacement in every row, fitted to an image together.

Scan noise moves whole rows, so the columns that a row crosses say where it was. The fit is the maximum a posteriori
of columns, spot shape, background and row displacements; the displacements have a normal prior whose width is itself
estimated from the image (MacKay, Neural Computation 4 (1992) 415, on the number of well-measured parameters).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import maximum_filter
from scipy.spatial import KDTree
from scipy.special import erfc

from temimagenet.device import single_threaded
from temimagenet.errors import LocalizeError
from temimagenet.imaging.detector import without_spikes
from temimagenet.localize.detect import (
    FILTER,
    Leftovers,
    brightest,
    chance_maxima,
    detect_columns,
    empty_areas,
    middle_of,
    spot_width_px,
)
from temimagenet.localize.joint import (
    ANCHOR,
    REACH,
    TAIL,
    TAIL_SHARE,
    Covariance,
    Equations,
    Model,
    NotDefinite,
    Problem,
    State,
    Step,
)
from temimagenet.localize.protocol import (
    Flag,
    FoundColumns,
    Localizer,
    check_image,
    check_starts,
    doubts,
    owners,
    repeated,
)
from temimagenet.localize.repeats import SAME, Repeats, complete, first_of, nearest
from temimagenet.progress import report

__all__ = ["ScanAware", "ScanFit", "fit_scan_aware"]

_BEYOND = 4.0
"""Standard errors beyond which a pixel's surroundings are something that the model does not know."""

_INDIFFERENT = 0.005
"""Differences of the log posterior for each column that do not matter: a tenth of a standard error."""

_ROUNDS = 40
_FIRST_REACH = 2.5

_EMPTY = 0.01
"""Trust in pixels of areas that hold nothing, such as padding."""

_SOON = 4
"""Rounds after which, if noise is not white, what is nothing is left out: many such keep a fit from settling."""

_TIED = 12
"""Rounds, at most, in which the places that a crystal repeats hold its columns."""

_WANDER = (0.99, 0.95)
"""Share of the columns that must come to rest before windows are set anew, and where noise is not white: there, what is
no column wanders."""

_NEAR = 0.5
"""Steps below this share of the spot's width are told from those of a fit that goes astray."""

_CLOSE = 0.35
"""Steps below this share of the spot's width leave the equations as they are."""

_DAMPING = 1e-3
"""Share by which the diagonal is raised, so that columns of which little is on the image do not leap."""

_ANCHOR_BEYOND = 1.0
"""The same as `ANCHOR` for columns that were found beyond the edge."""

_STEP = 0.4
"""Steps below this share of a standard error are followed by the last one."""

_RESTING = (0.95, 0.99)
"""Share of the columns whose steps must be so small, and where noise is not white: errors are larger there."""

_BINS = 64

_ENOUGH = 2**18
"""Pixels that tell the noise to a third of a percent: of larger images every n-th is used."""

_BAND = 64
"""Rows that are blurred together."""

_SEARCHES = 3
"""Times that columns are looked for in what the fit leaves over."""

_WIDE = 0.5
"""Width of the displacements across rows, in that of the spot, from which a row may settle on the wrong side."""

_GAIN = 2.0
"""What the logarithm of a row's posterior must gain for it to be moved."""

_ENOUGH_KNOWN = 4
"""Columns that a search needs: fewer do not tell what a column looks like."""

_MOST_MORE = 5
_MANY = 20
"""Times as many columns as were known before that a search may end with, if these were fewer than so many."""

_FEW = 500
"""Columns up to which it is cheap to look closely, even where residuals look like noise."""

_APART = 1.2
"""Widths from known columns: nearer lies what spots leave of others that are not quite what they are taken for."""

_HELD = 0.1
"""Widths that looked at places may move while their heights are told."""

_EACH = 2.0
"""Widths between columns that are added together: what is left for a nearer one shows once the first is fitted."""

_BESIDE = 4.0
"""Widths within which of columns that do not stand above the noise the faintest is left out first."""

_CLEAR = 3.2
"""Times what is wanted of a column that half of them reach in an image of columns, where noise is not white."""

_FAINTEST = 0.03
"""Added columns need this share of the height of brighter ones beside them: spots are fitted no better."""

_NOT_WHITE = (1.5, 0.4, 5.0)
"""From so many times white noise on, they need this share, and all columns so many standard errors: there, other things
are not what they seem, either."""

_FALSE_SHARE = 0.05
"""Largest expected share of noise among what is added."""

_LEAST = 3.5
"""Standard errors that the height of an added column must have in the end."""

_LIKELY, _PLAUSIBLE = 2.0, 1.5
"""Standard errors of height from which a place may be a column by itself, and by what the crystal repeats."""

_REPEATED = 4.0
"""Standard errors of the mean of what is left at its equivalents from which it is."""

_TOO_MANY, _NO_LOSS, _SURELY = 1.4, 1.2, 3.0
"""Times what their standard errors ask for by which a fit without some columns is worse: so that each is tried again,
so that none of them is missed, so that all of them are there."""

_HALF, _SEEN = 0.5, 2.5
"""Share of the height of its equivalents, and standard errors, that a column must have to be added there."""

_VACANT, _BARELY = 0.02, 1.2
"""Share of a crystal's columns that may be missing; standard errors of height from which one that was found stays."""

_CRYSTAL = 0.5
"""Share of the columns that others must repeat for an image to be of a crystal: of smoothed noise alone few are."""

_LOOSEST = 6.0
"""Times the errors of white noise, at most, by which a fit comes to rest."""

_FEW_LEFT = 0.01
"""Share of the columns that are left for later to be left out, while many more are."""

_WORTH, _WORTH_SHARE = 3, 0.02
"""Columns, and their share of those that are known, from which what the crystal repeats is worth another fit: a hidden
sublattice has more, and where so few stand out it may be by chance."""

_MISSING = 0.01
"""Share of the columns that must be missing there."""

_STEPS = (0.5, 0.3, 0.15)
_SQUARE = np.array([[x, y] for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)])
"""Widths by which places are moved to where all their equivalents together show most."""

Array = NDArray[np.float64]
Single = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ScanFit:
    """Everything that one image's fit found.

    Attributes:
        columns: the columns with their standard errors.
        row_shift_px: (rows, 2) displacement (dx, dy) of the beam in each row in pixels.
        row_sigma_px: standard deviation of the displacements in x and y in pixels.
        spot: a, b, c and w of every column's spot: (1 - w) exp(-Q / 2) + w exp(-Q / 8) times its height, with
            Q = a u^2 + 2 b u v + c v^2 at (u, v) pixels from its centre.
        background: (rows, columns) background in the image's unit.
        model: (rows, columns) the fitted image.
        noise: (a, b): variance of a pixel as a + b times the model.
        rounds: Gauss-Newton steps taken.
    """

    columns: FoundColumns
    row_shift_px: Float[NDArray[np.float64], "rows 2"]
    row_sigma_px: tuple[float, float]
    spot: tuple[float, float, float, float]
    background: Float[NDArray[np.float64], "rows columns"]
    model: Float[NDArray[np.float64], "rows columns"]
    noise: tuple[float, float]
    rounds: int


@dataclass(frozen=True)
class ScanAware:
    """Localizer: columns are found, then fitted by `fit_scan_aware`, which finds more in what the fit leaves over.

    Attributes:
        start: what finds them, such as `NetworkColumns()`; `detect_columns` where None.
    """

    start: Localizer | None = None

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "scan-aware fit" if self.start is None else f"scan-aware fit, started by {self.start.name}"

    def __call__(self, image: ArrayLike, pixel_size_A: float) -> FoundColumns:
        """Find and fit the columns of one image.

        Raises:
            LocalizeError: the image cannot be used.
        """
        if self.start is None:
            detected = detect_columns(image, pixel_size_A)
            xy_px, width_px = detected.xy_px, detected.width_px
        else:
            xy_px = self.start(check_image(image, pixel_size_A), pixel_size_A).xy_px
            width_px = spot_width_px(image, pixel_size_A)
        if not len(xy_px) or not np.isfinite(width_px):
            return FoundColumns.none(pixel_size_A)
        return fit_scan_aware(image, pixel_size_A, xy_px, width_px, search=True).columns


def fit_scan_aware(
    image: ArrayLike,
    pixel_size_A: float,
    start_px: Float[NDArray[np.float64], "N 2"],
    width_px: float,
    *,
    search: bool = False,
) -> ScanFit:
    """Fit all columns, one spot shape, a smooth background and the beam's displacement in every row.

    The spot is elliptic, a Gaussian with a wider one below it, the same for all columns but for its height. Pixels are
    weighted by a variance that is linear in the model, fitted to the residuals: counts of any gain and offset.

    Args:
        image: (rows, columns) counts or any detector signal.
        pixel_size_A: pixel size, for units only.
        start_px: positions (x, y) to start from.
        width_px: rough standard deviation of a column's spot in pixels.
        search: whether to leave out columns that do not stand above the noise, and to look for others in what the fit
            leaves over, and fit these, too. Four starts are needed for that; from fewer than 20, five times as many
            columns are believed at most, and none of them otherwise.

    Returns:
        The fit; its columns are in the order of the starts unless a search changed them. Of starts within half a
        spot's width of one another the first is fitted; the others are that column again, flagged `Flag.TWICE`, or
        left out by a search.

    Raises:
        LocalizeError: the image or a start cannot be used, or there is no start.
    """
    # A hot pixel would set the noise that the first round is weighted by.
    values = without_spikes(check_image(image, pixel_size_A))
    start = check_starts(values, start_px, width_px)
    owner = owners(start, width_px)
    start = start[np.unique(owner)]
    if len(start) == 0:
        raise LocalizeError("no columns to start from")
    # By a power of two nothing is rounded.
    scale = 2.0 ** math.floor(math.log2(float(np.abs(values).max())))
    # On blocks as small as these two threads on one product make it three times as slow, and threads for pieces of the
    # image wait for each other as long as they work.
    with single_threaded():
        fit = _fit(values / scale, start, width_px, pixel_size_A, search)
    found = fit.columns if search else repeated(fit.columns, owner)
    columns = replace(found, intensity=found.intensity * scale, intensity_sigma=found.intensity_sigma * scale)
    noise = (fit.noise[0] * scale**2, fit.noise[1] * scale)
    return replace(fit, columns=columns, background=fit.background * scale, model=fit.model * scale, noise=noise)


@dataclass(frozen=True, eq=False)
class _Settled:
    """Where a fit came to rest.

    Attributes:
        start: (N, 2) where the columns began; those beyond the edge, which come later in the problem's order, are not
            among them.
        problem, state, model, covariance: the fit.
        trust: (rows, columns) how far each pixel was believed.
        weight: (rows, columns) inverse variances of the pixels.
        noise, sigma: as in `ScanFit`, with `sigma` the displacements'.
        width: width of the spots' windows.
        last: (K,) last steps of the columns, in the problem's order.
        rounds: steps taken.
        whole: whether windows are whole and columns beyond the edge were looked for.
    """

    start: Array
    problem: Problem
    state: State
    model: Model
    covariance: Covariance
    trust: Single
    noise: tuple[float, float]
    sigma: Array
    width: float
    last: Array
    rounds: int
    whole: bool

    @property
    def back(self) -> NDArray[np.int64]:
        """(N,) where each start is in the problem's order."""
        return np.argsort(self.problem.order)[: len(self.start)]

    @cached_property
    def leftovers(self) -> Leftovers:
        """What is left over of the image."""
        return self._left((slice(None),) * 2)

    @cached_property
    def errors(self) -> tuple[float, float]:
        """How many times those in white noise the errors of places and heights are, by the middle of the image."""
        middle = middle_of(self.model.image.shape)
        low, high = ([part.start for part in middle][::-1], [part.stop for part in middle][::-1])
        count = int(((self.state.xy >= low) & (self.state.xy < high)).all(axis=1).sum())
        a, b, c, _ = self.state.shape
        return self._left(middle).errors(float((a * c - b**2) ** -0.25), count)

    def _left(self, part: tuple[slice, ...]) -> Leftovers:
        """What is left over of a part of the image."""
        return _left_over(self.problem, self.model, self.noise, self.width, part)


def _fit(values: Array, start: Array, width: float, pixel_size_A: float, search: bool) -> ScanFit:
    """The fit, once everything was checked."""
    # Windows that cut the spots' tails off do to begin with, until columns beyond the edge have found their places.
    empty = empty_areas(values)
    if search and empty is not None:
        column, row = np.rint(start).astype(np.int64).T
        outside = ~empty[row.clip(0, len(values) - 1), column.clip(0, values.shape[1] - 1)]
        start = start[outside] if outside.any() else start
    problem = Problem(values, start, width, _FIRST_REACH)
    problem.empty = empty
    state, sigma = _first_state(problem, start, width), np.full(2, 0.25 * width)
    found = _settle(start, problem, state, sigma, width, whole=False, held=search, early=search)
    if search and not found.whole and _looseness(found.leftovers) > 1.0:
        with suppress(LocalizeError):
            found = _without_nothings(found, least=1.4, enough=_FEW_LEFT)
    known = len(found.start)
    if search:
        # Where spots run into each other and noise is not white, columns may fall on one another in further steps.
        with suppress(LocalizeError):
            found = _released(found)
    for _ in range(_SEARCHES):
        replaced = _without_strays(found)
        if replaced is None:
            break
        found = _settle(found.start, found.problem, replaced, found.sigma, found.width, whole=True)
    if not search:
        return _result(found, pixel_size_A)
    found = _searched(found, len(found.start) - known)
    fit = _result(found, pixel_size_A)
    told = fit.columns
    faint = told.flags & Flag.FAINT > 0
    if faint.any():
        # What a crystal repeats stays, flagged.
        faint &= np.isnan(_repeats(found).expected()) | (told.intensity < _BARELY * told.intensity_sigma)
    return replace(fit, columns=told.select(~faint))


def _left_over(
    problem: Problem, model: Model, noise: tuple[float, float], width: float, part: tuple[slice, ...]
) -> Leftovers:
    """What a model leaves over of a part of the image."""
    image, empty = model.image[part], problem.empty
    residual = (problem.values[part] - image) / np.sqrt(_variance(image, noise))
    return Leftovers.of(residual, width, None if empty is None else empty[part])


def _looseness(left: Leftovers | None) -> float:
    """How many times the errors of white noise errors are, for a fit to rest; 1 where noise is nearly white.

    What a fit that has not come to rest leaves over is not all noise.
    """
    return min(left.spread, _LOOSEST) if left is not None and left.spread > _NOT_WHITE[0] else 1.0


def _doubted(left: Leftovers | None) -> float:
    """Standard errors of white noise beyond which a pixel's surroundings are something that the model does not know:
    more where noise was smoothed, or it would be doubted, too."""
    return _BEYOND * (_looseness(left) if left is not None and left.smoothed else 1.0)


def _released(found: _Settled) -> _Settled:
    """The fit whose displacements are as wide as they come out, with the columns that it left over till then."""
    known = len(found.start)
    if known >= _ENOUGH_KNOWN:
        with suppress(LocalizeError):
            more, height = _hidden(found)
            fit = _with_more(found, more, height) if len(more) else found
            if known < len(fit.start) <= (known * _MOST_MORE if known < _MANY else math.inf):
                return fit
    left = found.leftovers
    return _settle(found.start, found.problem, found.state, found.sigma, found.width, whole=found.whole, left=left)


def _searched(found: _Settled, more_before: int) -> _Settled:
    """The fit with the columns that it left over, and without those that do not stand above the noise.

    Args:
        found: the fit.
        more_before: columns that were found last; where noise is not white and these were few, no more are looked for.
    """
    known, fit = len(found.start), found
    known_all = _looseness(found.leftovers) > 1.0 and more_before < _WORTH_SHARE * known
    for number in range(_SEARCHES if known >= _ENOUGH_KNOWN and not known_all else 0):
        before = len(fit.start)
        try:
            more, height = _hidden(fit)
            # Of many columns a few more are not worth yet another fit.
            if not len(more) or (number and len(more) < _WORTH_SHARE * before):
                break
            fit = _with_more(fit, more, height)
        except LocalizeError:
            break
        if known < _MANY and len(fit.start) > _MOST_MORE * known:
            # So many are no columns but the texture of a film.
            fit = found
            break
        if len(fit.start) <= before:
            break
    with suppress(LocalizeError):
        fuller = _completed(fit)
        if fuller is not None and _likelier(fuller, fit):
            fit = fuller
    with suppress(LocalizeError):
        fit = _without_nothings(fit, last=True)
    return fit


def _completed(found: _Settled) -> _Settled | None:
    """The fit with a column wherever the others of a crystal repeat one; None where few of these places are vacant.

    Columns that nothing repeats, near such a place, are those of it that went astray: faint columns tell where the rows
    between brighter ones were, which tell where they are, and together they find other ways to fit the noise. They come
    back while the places hold the columns; then these are free again.
    """
    back, width = found.back, found.width
    xy = found.state.xy[back]
    if found.leftovers.spread >= _NOT_WHITE[0]:
        return None
    whole = complete(xy, found.state.height[back], width, found.model.image.shape)
    known, missing = whole.source[whole.source >= 0], whole.source < 0
    if missing.sum() < max(_WORTH, _MISSING * len(xy)):
        return None
    kept = np.isin(np.arange(len(xy)), known)
    start = np.concatenate([found.start[kept], whole.xy_px[missing]])
    problem, state = _changed(found, kept, whole.xy_px[missing], whole.height[missing])
    at = np.argsort(problem.order)[: len(start)][whole.regular]
    problem.anchor[at] = whole.xy_px[whole.regular]
    tight, free = (_HELD * width) ** -2, (ANCHOR * width) ** -2
    problem.anchor_precision[at] = tight
    xy = state.xy.copy()
    xy[at] = problem.anchor[at]
    new = _settle(start, problem, replace(state, xy=xy), found.sigma, width, whole=True, most=_TIED)
    new.problem.anchor_precision[new.problem.anchor_precision == tight] = free
    new = _settle(start, new.problem, new.state, new.sigma, new.width, whole=True)
    start[len(known) :] = new.state.xy[new.back][len(known) :]
    return replace(new, start=start)


def _likelier(found: _Settled, other: _Settled) -> bool:
    """Whether a fit makes the image likelier than another one, everything weighted as there.

    Of the posterior, the displacements' widths are asked for, too (MacKay, as above). Each column has the price of
    the least height that would be believed, which is lower if the crystal repeats it.
    """
    weight = _weights(other)

    def cost(fit: _Settled) -> float:
        xy, live = fit.state.xy[fit.back], fit.sigma > 0.0
        places = _repeats(fit).places()[0]
        regular = int((nearest(places, xy)[0] <= SAME * fit.width).sum()) if len(places) else 0
        price = 0.5 * (_SEEN**2 * regular + _LEAST**2 * (len(xy) - regular))
        wide = 0.5 * float(np.log(fit.sigma[live] ** 2 / fit.covariance.rows[:, live]).sum())
        return _cost(fit.problem, fit.model, fit.state, weight, fit.sigma) + wide + price

    return cost(found) < cost(other)


def _settle(
    start: Array,
    problem: Problem,
    state: State,
    sigma: Array,
    width: float,
    *,
    whole: bool,
    most: int = _ROUNDS,
    held: bool = False,
    left: Leftovers | None = None,
    early: bool = False,
) -> _Settled:
    """Gauss-Newton steps from a state until columns and the displacements' width rest.

    Args:
        start: where columns began, the first of the problem's order; those beyond the edge follow.
        problem, state: the fit.
        sigma: the displacements' width so far.
        width: of the windows.
        whole: whether windows are whole and columns beyond the edge were looked for.
        most: rounds at most.
        held: whether the displacements' width stays: rows that cross hidden columns alone would widen it.
        left: what such a fit is known to leave over; found out near the end.
        early: whether to end, from `_SOON` rounds on, where noise is not white and columns wander.
    """
    values = problem.values
    model = problem.look(state)
    alive = _alive(problem)
    trust = alive * np.ones(values.shape, dtype=np.float32)
    equations: Equations | None = None
    error: Array | None = None
    crowded = whole
    last = np.full(len(state.xy), np.inf)
    damping, change, rounds, loose = _DAMPING, 1.0, 0, _looseness(left)
    middle = middle_of(values.shape)
    while rounds < most:
        report("fit", rounds, most)
        rounds += 1
        if equations is None or change > 0.01:
            noise = _noise(values, model.image, trust)
            if crowded:
                trust = _trust(values - model.image, model.image, noise, width, _doubted(left))
                trust *= alive
            weight = trust / _variance(model.image, noise)
        cost = _cost(problem, model, state, weight, sigma)
        step = None
        while step is None and damping < 1e6:
            try:
                if equations is None:
                    # Rows know their own scale, the prior's, unless it is far too wide.
                    rows = damping if damping > _DAMPING else 0.0
                    equations = Equations(problem, model, state, weight, sigma, damping, rows)
                step = equations.step(model, state, weight, sigma)
                trial = _moved(problem, state, step)
                last = np.abs(step.columns[:, :2]).max(axis=1)
                # One column in a hundred may wander without keeping the others from their end.
                told = problem.order < len(start)
                moved = float(np.quantile(last[told], _WANDER[loose > 1.0], method="lower"))
                fitted = float((trial.shape[0] * trial.shape[2] - trial.shape[1] ** 2) ** -0.25)
                odd = not 0.87 < fitted / width < 1.15 and 0.3 <= fitted < 0.5 * min(values.shape)
                again = moved < _NEAR * fitted and (odd or not whole)
                new = problem.look(trial, slopes=not again)
                if not _cost(problem, new, trial, weight, sigma) <= cost + _INDIFFERENT * len(start):
                    step, equations = None, None
            except NotDefinite:
                pass
            damping = _DAMPING if step else 30.0 * damping
        if step is None or equations is None:
            break
        state, model = trial, new
        if early and not again and rounds >= _SOON:
            left = _left_over(problem, model, noise, width, middle)
            loose = _looseness(left)
            if loose > 1.0:
                with suppress(LocalizeError):
                    return _rest(start, problem, state, model, trust, sigma, width, last, rounds, left, whole=whole)
        if again:
            # Windows fit the spots that were found, not those that were expected.
            width = fitted if odd else width
            beyond = np.zeros((0, 2))
            if not crowded:
                # Now that these are taken off, others show that lie half over the edge.
                beyond = _beyond(values - model.image, model.image, noise, width, state)
            whole, crowded = crowded, True
            problem, state = _rebuilt(problem, state, width, REACH if whole else _FIRST_REACH, beyond)
            model, equations, error = problem.look(state), None, None
            last = np.full(len(state.xy), np.inf)
        elif not whole or moved > _CLOSE * width:
            equations, error = None, None
        else:
            if error is None:
                rough = equations.covariance()
                known = np.maximum(1.0 / rough.rows - equations.precision, 0.0)
                left = _left_over(problem, model, noise, width, middle)
                loose = _looseness(left)
                error = loose * np.sqrt(rough.columns.diagonal(axis1=1, axis2=2)[:, :2].max(axis=1))
            sigma, change = (sigma, 0.0) if held else _prior(state.shift, known, sigma)
            if (state.shift[:, sigma == 0.0] != 0.0).any():
                state = replace(state, shift=state.shift * (sigma > 0.0))
                model, equations, error = problem.look(state), None, None
            elif (
                change <= 0.01 * loose
                and np.quantile((last / error)[told], _RESTING[loose > 1.0], method="lower") <= _STEP
            ):
                break
            elif change > 0.2:
                equations, error = None, None
    return _rest(start, problem, state, model, trust, sigma, width, last, rounds, left, whole=whole)


def _rest(
    start: Array,
    problem: Problem,
    state: State,
    model: Model,
    trust: Single,
    sigma: Array,
    width: float,
    last: Array,
    rounds: int,
    left: Leftovers | None,
    *,
    whole: bool,
) -> _Settled:
    """A last step from where a fit came to rest, for the last weights and the covariance.

    Raises:
        LocalizeError: the columns cannot be told apart.
    """
    noise = _noise(problem.values, model.image, trust)
    trust = _trust(problem.values - model.image, model.image, noise, width, _doubted(left))
    trust *= _alive(problem)
    weight = trust / _variance(model.image, noise)
    equations, covariance = _final(problem, model, state, weight, sigma)
    step = equations.step(model, state, weight, sigma)
    trial, last = _moved(problem, state, step), np.minimum(last, np.abs(step.columns[:, :2]).max(axis=1))
    new = problem.look(trial, slopes=False)
    if _cost(problem, new, trial, weight, sigma) <= _cost(problem, model, state, weight, sigma):
        state, model = trial, new
    return _Settled(start, problem, state, model, covariance, trust, noise, sigma, width, last, rounds, whole)


def _without_strays(found: _Settled) -> State | None:
    """The state with rows elsewhere that settled on the wrong side of their columns; None where there are none.

    A displacement as large as a spot is wide has several places where a row fits better than anywhere near: all over
    the prior they are tried.
    """
    problem, state, sigma = found.problem, found.state, found.sigma
    live = sigma > 0.0
    if sigma[1] < _WIDE * found.width:
        return None
    weight = 1.0 / _variance(found.model.image, found.noise)

    def misfits(image: Array, shift: Array) -> Array:
        """Of each row: minus the logarithm of its part of the posterior, but for what does not change."""
        prior = (shift[:, live] ** 2 / sigma[live] ** 2).sum(axis=1)
        misfit: Array = 0.5 * (weight * (problem.values - image) ** 2).sum(axis=1) + 0.5 * prior
        return misfit

    now = misfits(found.model.image, state.shift)
    best, shift = now - _GAIN, state.shift.copy()
    for across in np.linspace(-3.0, 3.0, 16) * sigma[1]:
        for along in (state.shift[:, 0], 0.0, -1.5 * sigma[0], 1.5 * sigma[0]):
            moved = np.stack([np.broadcast_to(along, len(now)), np.full(len(now), across)], axis=1)
            there = misfits(problem.look(replace(state, shift=moved), slopes=False).image, moved)
            better = there < best
            shift[better], best[better] = moved[better], there[better]
    return replace(state, shift=shift) if (best < now - _GAIN).any() else None


def _hidden(found: _Settled) -> tuple[Array, Array]:
    """Places (N, 2) and heights of columns that a fit leaves over.

    What may be one is put into the equations, all places at once and held where they are: one step tells their heights
    and how sure these are, beside everything else unknown.
    """
    state, width = found.state, found.width
    places, surplus = found.leftovers.places(state.xy, _APART * width)
    if not surplus and len(state.xy) > _FEW:
        places = places[:0]
    significance = np.full(len(places), np.inf)
    plausible = np.zeros((0, 2))
    for least in (0.0, _LIKELY):
        places = places[significance > least]
        if not len(places):
            return places, np.zeros(0)
        height, deviation, spread = _heights(found, places)
        significance = height / (spread * deviation)
        order = np.argsort(-significance)
        places, height, significance = places[order], height[order], significance[order]
        plausible = plausible if least else places[significance > _PLAUSIBLE]
    white = spread < _NOT_WHITE[0]
    chance = chance_maxima(significance, found.model.image.size, FILTER * width)
    number = int(np.flatnonzero(chance <= _FALSE_SHARE * np.arange(1, len(places) + 1)).max(initial=-1)) + 1
    sure, as_high = places[:number], height[:number]
    high = _high(found, sure, as_high, _FAINTEST if white else _NOT_WHITE[1])
    sure, as_high = sure[high], as_high[high]
    apart = first_of(sure, _EACH * width)
    sure, as_high = sure[apart], as_high[apart]
    if white:
        more, more_high = _repeated(found, plausible, sure)
        sure, as_high = np.concatenate([sure, more]), np.concatenate([as_high, more_high])
    return sure, as_high


def _repeats(found: _Settled) -> Repeats:
    """What the columns of a fit show of the crystal's translations."""
    back = found.back
    return Repeats.of(found.state.xy[back], found.state.height[back], found.width, found.model.image.shape)


def _high(found: _Settled, places: Array, height: Array, least: float) -> NDArray[np.bool_]:
    """Which heights are more than a share of that of the brighter columns beside them."""
    beside = brightest(KDTree(found.state.xy), found.state.height, places, 6.0 * found.width)
    high: NDArray[np.bool_] = height > least * beside
    return high


def _as_repeated(height: Array, expected: Array, error: Array) -> NDArray[np.bool_]:
    """Which heights are likelier those of a column as high as its equivalents than of a vacancy, by Bayes' theorem.

    Half of what is expected is as likely either way; of faint ones less is enough, since vacancies are rare.
    """
    least = 0.5 * expected - error**2 * np.log(1.0 / _VACANT - 1.0) / np.maximum(expected, 1e-300)
    likelier: NDArray[np.bool_] = (height > least) & (height > _BARELY * error)
    return likelier


def _beside(found: _Settled) -> Array:
    """(N,) the height of the highest column beside each start that lies on the image: of others little is known."""
    xy, height = found.state.xy[found.back], found.state.height[found.back]
    inside = ~_at_edge(xy, found.model.image.shape, 0.0)
    return brightest(KDTree(xy[inside]), height[inside], xy, 6.0 * found.width)


def _repeated(found: _Settled, places: Array, sure: Array) -> tuple[Array, Array]:
    """Places (N, 2) and heights of columns that are not sure by themselves, but that the crystal repeats.

    Maxima of noise, in rows that went astray, are off: they are moved to where what is left at all their equivalents
    is most. There a column is believed that is more than half as high as these, which is as likely to miss one as to
    believe in one that is not there.

    Args:
        found: the fit.
        places: (M, 2) places that may be columns, the most significant first.
        sure: (K, 2) places that are.
    """
    left, width, repeats = found.leftovers, found.width, _repeats(found)
    if not len(places) or not len(repeats.vectors_px):
        return np.zeros((0, 2)), np.zeros(0)
    height, _, _ = _heights(found, places)
    # Height of a spot for what it leaves behind the filter.
    unit = float(np.median(height / np.maximum(left.at(places), 1.0)))

    def heights(xy: Array) -> Array:
        return unit * left.at(xy)

    moved, expected = places.copy(), np.full(len(places), np.nan)
    for step in _STEPS:
        centre, best = moved.copy(), np.full(len(places), -np.inf)
        for offset in step * width * _SQUARE:
            there = centre + offset
            mean, told = repeats.at_equivalents(there, height, heights)
            both = np.nan_to_num(mean) * told + heights(there)
            better = both > best
            best[better], moved[better] = both[better], there[better]
            clear = mean * np.sqrt(told) > _REPEATED * unit
            expected[better] = np.where(clear, mean, np.nan)[better]
    end = np.array(found.model.image.shape[::-1]) - 1.0
    clear = np.isfinite(expected) & np.all((moved >= 0.0) & (moved <= end), axis=1)
    moved, expected = moved[clear], expected[clear]
    others, which = repeats.equivalents(moved)
    away = nearest(found.state.xy, others)[0] > _APART * width
    moved, expected = np.concatenate([moved, others[away]]), np.concatenate([expected, expected[which[away]]])
    apart = first_of(np.concatenate([sure, moved]), _EACH * width)[len(sure) :]
    moved, expected = moved[apart], expected[apart]
    if not len(moved):
        return moved, expected
    height, deviation, spread = _heights(found, np.concatenate([sure, moved]))
    height, deviation = height[len(sure) :], deviation[len(sure) :]
    seen = (height > _HALF * expected) & (height > _SEEN * spread * deviation)
    seen &= _high(found, moved, height, _FAINTEST)
    if seen.sum() < max(_WORTH, _WORTH_SHARE * len(found.start)):
        seen[:] = False
    return moved[seen], height[seen]


def _heights(found: _Settled, places: Array) -> tuple[Array, Array, float]:
    """Heights of spots at places, beside everything else; their standard deviations; and how many times that of white
    noise what they leave over is."""
    problem, state = _changed(found, np.ones(len(found.start), dtype=bool), places, np.zeros(len(places)))
    new = np.argsort(problem.order)[len(found.start) :][: len(places)]
    problem.anchor_precision[new] = (_HELD * found.width) ** -2
    model = problem.look(state)
    weight = _alive(problem) / _variance(model.image, found.noise)
    equations, covariance = _final(problem, model, state, weight, found.sigma)
    step = equations.step(model, state, weight, found.sigma)
    image = problem.look(_moved(problem, state, step), slopes=False).image
    left = Leftovers.of((problem.values - image) * np.sqrt(weight), found.width, problem.empty)
    return step.columns[new, 2], np.sqrt(covariance.columns[new, 2, 2]), left.spread


def _with_more(found: _Settled, more: Array, height: Array) -> _Settled:
    """The fit with more columns, without those that come to nothing.

    Raises:
        LocalizeError: the columns cannot be told apart.
    """
    count = len(found.start)
    start = np.concatenate([found.start, more])
    problem, state = _changed(found, np.ones(count, dtype=bool), more, height)
    new = _settle(start, problem, state, found.sigma, found.width, whole=True, left=found.leftovers)
    # A column that had no start has not strayed from it.
    start[count:] = new.state.xy[new.back][count:]
    return _without_nothings(replace(new, start=start), first=count)


def _without_nothings(
    found: _Settled,
    least: float = _LEAST,
    first: int = 0,
    *,
    last: bool = False,
    careful: bool = False,
    enough: float = 0.0,
) -> _Settled:
    """The fit without columns, from some place on, whose height is less than so many standard errors.

    Those that the crystal repeats need fewer. Where noise is not white, all need more. Where it is white, a column
    stays without which the fit is worse than its standard error says: many faint ones and what all spots and rows
    share do not add up in a straight line.

    Args:
        found: the fit.
        least: standard errors that a column needs.
        first: so many columns at the beginning are believed.
        last: whether errors are by all that is left over, where noise is not white.
        careful: whether each group left out is looked back at, and tried again in halves where the fit got worse than
            it may; otherwise only the whole is, at the end.
        enough: share of the columns which stays if it is all that is to be left out.

    Raises:
        LocalizeError: the columns cannot be told apart.
    """
    believed, whole, spread = np.arange(len(found.start)) < first, found, math.inf
    crystal: bool | None = None
    while True:
        back, left = found.back, found.leftovers
        height, variance = found.state.height[back], found.covariance.columns[back, 2, 2]
        white = left.spread < _NOT_WHITE[0]
        wanted = least * (1.0 if white else _NOT_WHITE[2] / _LEAST)
        now = left.misfit if last and not white else left.spread
        if not white and crystal is None:
            crystal = float(np.isfinite(_repeats(found).expected()).mean()) >= _CRYSTAL
        # What was left out of a crystal is left over: it would pass for smoothed noise, and all else follow.
        spread = min(spread, now) if crystal and left.smoothed and not white else now
        error = spread * np.sqrt(np.maximum(variance, 1e-300))
        significance = height / error
        faint = np.flatnonzero(~believed & (significance < wanted))
        # What smoothed noise is like: faint beside columns, and repeated by none.
        low = ~believed & (height < _NOT_WHITE[1] * _beside(found)) if last and not white else np.zeros_like(believed)
        if (white or last) and (len(faint) or low.any()):
            expected = _repeats(found).expected()
            faint = faint[~_as_repeated(height[faint], expected[faint], error[faint])]
            faint = np.union1d(faint, np.flatnonzero(low & np.isnan(expected)))
        # Where two are too many, one may be right, unless all are much alike.
        faint = faint[np.argsort(significance[faint])]
        if white or np.median(significance) > _CLEAR * wanted:
            faint = faint[first_of(found.state.xy[back][faint], _BESIDE * found.width)]
        if len(faint) == len(back) or 0 < len(faint) <= enough * len(back):
            return found
        # Beside areas that hold nothing, columns take up what is cut off there.
        sound = white and found.problem.empty is None
        if sound and not careful and not len(faint) and _excess(whole, found, wanted) > _TOO_MANY:
            return _without_nothings(whole, least, first, last=last, careful=True)
        groups = [faint] if len(faint) else []
        fewer = None
        while groups and fewer is None:
            group = groups.pop()
            kept = np.ones(len(back), dtype=bool)
            kept[group] = False
            problem, state = _changed(found, kept, np.zeros((0, 2)), np.zeros(0))
            fewer = _settle(found.start[kept], problem, state, found.sigma, found.width, whole=found.whole, left=left)
            worse = _excess(found, fewer, wanted) if careful and white else 0.0
            if worse <= _NO_LOSS:
                found, believed = fewer, believed[kept]
            elif len(group) == 1 or worse > _SURELY:
                believed[group], fewer = True, None
            else:
                groups, fewer = [*groups, *np.array_split(group, 2)], None
        if fewer is None:
            return found


def _weights(found: _Settled) -> Array:
    """(rows, columns) trust in each pixel over its variance, by a fit."""
    weight: Array = found.trust / _variance(found.model.image, found.noise)
    return weight


def _excess(found: _Settled, fewer: _Settled, wanted: float) -> float:
    """How many times worse the fit without some columns is than it may be: all weights and priors the same, minus the
    logarithm of the posterior grows by half the square of a column's significance, which may be less where the crystal
    repeats it."""
    kept = set(map(tuple, fewer.start))
    gone = np.array([tuple(place) not in kept for place in found.start])
    if not gone.any():
        return 0.0
    repeated = int(np.isfinite(_repeats(found).expected()[gone]).sum())
    price = 0.5 * (min(_SEEN, wanted) ** 2 * repeated + wanted**2 * (gone.sum() - repeated))
    weight = _weights(found)
    costs = [_cost(fit.problem, fit.model, fit.state, weight, found.sigma) for fit in (found, fewer)]
    return float((costs[1] - costs[0]) / price)


def _changed(found: _Settled, kept: NDArray[np.bool_], more: Array, height: Array) -> tuple[Problem, State]:
    """The same unknowns with some of the columns that had a start, and with more of them.

    In the problem's order they follow each other; columns beyond the edge come last.
    """
    old, state = found.problem, found.state
    place = np.argsort(old.order)
    told, beyond = place[: len(kept)][kept], place[len(kept) :]

    def joined(known: Array, new: Array) -> Array:
        return np.concatenate([known[told], new, known[beyond]])

    xy = joined(state.xy, more)
    problem = Problem(old.values, xy, found.width, REACH)
    problem.empty = old.empty
    problem.anchor = joined(old.anchor, more)[problem.order]
    free = np.full(len(more), (ANCHOR * found.width) ** -2)
    problem.anchor_precision = joined(old.anchor_precision, free)[problem.order]
    return problem, replace(state, xy=xy[problem.order], height=joined(state.height, height)[problem.order])


def _final(problem: Problem, model: Model, state: State, weight: Array, sigma: Array) -> tuple[Equations, Covariance]:
    """The equations and the posterior's covariance, with as little damping as columns on top of each other need."""
    for damping in (0.0, 1e-6, 1e-3):
        try:
            equations = Equations(problem, model, state, weight, sigma, damping)
            return equations, equations.covariance()
        except NotDefinite:
            continue
    raise LocalizeError("the columns cannot be told apart: several starts lie on one another")


def _alive(problem: Problem) -> Single:
    """How far pixels are believed before anything is known: little where they hold nothing; one number for all."""
    if problem.empty is None:
        return np.ones(1, dtype=np.float32)
    return np.where(problem.empty, np.float32(_EMPTY), np.float32(1.0))


def _first_state(problem: Problem, start: Array, width: float) -> State:
    """Round spots of the given width, as high as the image is there above a low level."""
    values = problem.values
    level = float(np.quantile(values, 0.1))
    xy = start[problem.order].copy()
    rows, cols = values.shape
    column, row = np.rint(xy).astype(np.int64).T
    height = values[row.clip(0, rows - 1), column.clip(0, cols - 1)] - level
    height = np.maximum(height, 0.1 * max(float(np.median(height)), 1e-6 * float(np.ptp(values))))
    shape = np.array([width**-2, 0.0, width**-2, TAIL_SHARE[0]])
    # B-splines sum to one.
    weights = np.full(problem.by.shape[1] * problem.bx.shape[1], level)
    return State(xy, height, shape, weights, np.zeros((rows, 2)))


def _beyond(residual: Array, model: Array, noise: tuple[float, float], width: float, state: State) -> Array:
    """(G, 2) columns just outside that reach in, far from those that are known and from the corners."""
    around = _surroundings(residual, model, noise, width)
    peak = (around == maximum_filter(around, size=2 * int(np.ceil(width)) + 1)) & (around > 1.5 * _BEYOND)
    rows, columns = np.nonzero(peak)
    places = np.stack([columns, rows], axis=1).astype(np.float64)
    end = np.array(residual.shape[::-1]) - 1.0
    low, high = places < width, places > end - width
    good = ((low | high).sum(axis=1) == 1) & (KDTree(state.xy).query(places)[0] > 2.0 * width)
    # If as high as the others: what shows on the edge, blurred by its own width, of those so far out.
    far = np.linspace(0.0, 2.5, 26)
    seen = 0.5 * np.exp(-0.25 * far**2) * erfc(0.5 * far)
    blurred = around * np.sqrt(_variance(model, noise)) / (2.0 * np.sqrt(np.pi) * width)
    share = blurred[rows, columns] / max(float(np.median(state.height)), 1e-300)
    far = width * np.interp(-share, -seen, far)[:, None]
    outside: Array = np.where(low, -far, np.where(high, end + far, places))[good]
    return outside


def _at_edge(xy: Array, shape: tuple[int, ...], width: float) -> NDArray[np.bool_]:
    """(N,) whether a good part of a spot lies beyond the image."""
    margin = 1.5 * width
    cut: NDArray[np.bool_] = np.any((xy < margin) | (xy > np.array(shape[::-1]) - 1 - margin), axis=1)
    return cut


def _rebuilt(problem: Problem, state: State, width: float, reach: float, more: Array) -> tuple[Problem, State]:
    """The same unknowns, and more columns, with windows of another width set around the present positions.

    The additional columns come last in the problem's `order` of starts.
    """
    xy = np.concatenate([state.xy, more])
    height = np.concatenate([state.height, np.full(len(more), np.median(state.height))])
    new = Problem(problem.values, xy, width, reach)
    new.empty = problem.empty
    moved = replace(state, xy=xy[new.order], height=height[new.order])
    precision = np.full(len(more), (_ANCHOR_BEYOND * width) ** -2)
    new.anchor_precision = np.concatenate([problem.anchor_precision, precision])[new.order]
    new.anchor = np.concatenate([problem.anchor, more])[new.order]
    new.order = np.concatenate([problem.order, len(problem.order) + np.arange(len(more))])[new.order]
    return new, moved


def _moved(problem: Problem, state: State, step: Step) -> State:
    """The state after a step, which is shortened so that no spot loses its width and no row or column leaps."""
    width = (state.shape[0] * state.shape[2]) ** -0.25
    leap = np.linalg.norm(step.columns[:, :2], axis=1, keepdims=True)
    most = 0.5 * problem.anchor_precision[:, None] ** -0.5
    columns = step.columns * np.minimum(1.0, most / np.maximum(leap, 1e-300))
    part = min(1.0, width / max(float(np.abs(step.rows).max()), 1e-300))
    shape = state.shape + part * step.border[:4]
    low = 0.25 * state.shape
    shape[[0, 2]] = np.clip(shape[[0, 2]], low[[0, 2]], 4.0 * state.shape[[0, 2]])
    shape[1] = np.clip(shape[1], *(np.array([-0.9, 0.9]) * np.sqrt(shape[0] * shape[2])))
    shape[3] = np.clip(shape[3], -0.1, 0.4)
    return State(
        state.xy + columns[:, :2],
        state.height + part * columns[:, 2],
        shape,
        state.weights + part * step.border[4:],
        state.shift + part * step.rows,
    )


def _noise(values: Array, model: Array, trust: Single) -> tuple[float, float]:
    """(a, b) of variance = a + b model from squared residuals, by weighted least squares over bins of the model."""
    every = max(1, values.size // _ENOUGH)
    believed = trust.ravel()[::every] == 1.0
    if not believed.any():
        believed = np.ones_like(believed)
    flat = model.ravel()[::every][believed]
    square = (values.ravel()[::every][believed] - flat) ** 2
    low, high = float(flat.min()), float(flat.max())
    bins = np.minimum((flat - low) * (_BINS / max(high - low, 1e-300)), _BINS - 1).astype(np.int64)
    count = np.bincount(bins, minlength=_BINS)
    level, spread = (np.bincount(bins, part, minlength=_BINS)[count > 0] / count[count > 0] for part in (flat, square))
    count = count[count > 0]
    a, b = float(square.mean()), 0.0
    for _ in range(5):
        w = count / _variance(level, (a, b)) ** 2
        mean = (w * level).sum() / w.sum()
        b = max(0.0, float((w * (level - mean) * spread).sum() / max((w * (level - mean) ** 2).sum(), 1e-300)))
        a = float((w * (spread - b * level)).sum() / w.sum())
    return a, b


def _variance(model: Array, noise: tuple[float, float]) -> Array:
    """Variance of each pixel, never far below the mean one."""
    a, b = noise
    variance = a + b * model
    floored: Array = np.maximum(variance, 0.02 * float(np.abs(variance).mean()) + 1e-300)
    return floored


def _trust(residual: Array, model: Array, noise: tuple[float, float], width: float, beyond: float) -> Single:
    """How far each pixel is believed: 1, or less where the residuals around it cannot be noise.

    Columns just outside the image, columns that were not found, dirt.
    """
    around = _surroundings(residual, model, noise, width)
    trust: Single = np.square(np.float32(beyond) / np.maximum(np.abs(around), np.float32(beyond)))
    return trust


def _surroundings(residual: Array, model: Array, noise: tuple[float, float], width: float) -> Single:
    """Mean residual around each pixel in its standard errors."""
    # A Gaussian average over white noise has 1 / (2 sqrt(pi) sigma) of its standard deviation.
    mean = _blurred((residual / np.sqrt(_variance(model, noise))).astype(np.float32), width)
    return mean * np.float32(2.0 * np.sqrt(np.pi) * width)


def _blurred(image: Single, width: float) -> Single:
    """Gaussian average, by products of matrices: a fourth of a filter's time."""
    reach = int(np.ceil(2.5 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2).astype(np.float32)
    band = np.zeros((_BAND, _BAND + 2 * reach), dtype=np.float32)
    for row in range(_BAND):
        band[row, row : row + len(kernel)] = kernel / kernel.sum()
    # Down, then along.
    for _ in range(2):
        framed = np.pad(image, ((reach, reach), (0, 0)), mode="symmetric")
        parts = [framed[first : first + band.shape[1]] for first in range(0, len(image), _BAND)]
        image = np.concatenate([band[: len(part) - 2 * reach, : len(part)] @ part for part in parts]).T
    return image


def _cost(problem: Problem, model: Model, state: State, weight: Array, sigma: Array) -> float:
    """Minus the logarithm of the posterior at given weights."""
    live = sigma > 0.0
    prior = (state.shift[:, live] ** 2 / sigma[live] ** 2).sum()
    prior += ((state.shape[3] - TAIL_SHARE[0]) / TAIL_SHARE[1]) ** 2
    prior += (problem.anchor_precision[:, None] * (state.xy - problem.anchor) ** 2).sum()
    return float(0.5 * (weight * (problem.values - model.image) ** 2).sum() + 0.5 * prior)


def _prior(shift: Array, known: Array, sigma: Array) -> tuple[Array, float]:
    """The prior's widths that make the image most likely, one fixed-point step, and their relative change.

    A width of 0 says that there are no displacements.

    Args:
        shift: (rows, 2) displacements.
        known: (rows, 2) what the image alone knows of them, as inverse variances.
        sigma: (2,) the widths so far.
    """
    new = sigma.copy()
    for axis in np.flatnonzero(sigma > 0.0):
        # Rows that no column crosses tell nothing of the width.
        told = float((known[:, axis] > 1e-3 * known[:, axis].max()).sum())
        # gamma rows are measured rather than assumed.
        gamma = float((known[:, axis] / (known[:, axis] + sigma[axis] ** -2)).sum())
        ratio = np.sqrt((shift[:, axis] ** 2).sum() / max(gamma, 1e-3 * told)) / sigma[axis]
        # The fewer they are, the shorter the plain steps.
        new[axis] *= np.clip(ratio if gamma > 0.5 * told else ratio**2, 0.2, 3.0)
        # As the width goes to zero the steps become a geometric series: no displacement explains the image better.
        if gamma < 0.05 * told and new[axis] < sigma[axis]:
            new[axis] = 0.0
    live = new > 0.0
    return new, float(np.abs(new[live] / sigma[live] - 1.0).max(initial=0.0))


def _result(found: _Settled, pixel_size_A: float) -> ScanFit:
    """Columns in the order of the starts, with errors and flags."""
    problem, state, model, covariance, start = (
        found.problem, found.state, found.model, found.covariance, found.start,
    )  # fmt: skip
    width, last = found.width, found.last
    a, b, c, w = state.shape
    determinant = a * c - b**2
    volume = 2.0 * np.pi / np.sqrt(determinant) * (1.0 - w + w * TAIL**2)
    by_shape = np.array(
        [-0.5 * c / determinant, b / determinant, -0.5 * a / determinant, (TAIL**2 - 1.0) / (1.0 - w + w * TAIL**2)]
    )
    # What is left over scatters more than white noise would: so do the columns.
    along, high = found.errors
    error = np.array([along, along, high]) * np.sqrt(np.maximum(covariance.columns.diagonal(axis1=1, axis2=2), 0.0))
    relative = (error[:, 2] / state.height) ** 2 + high**2 * (
        by_shape @ covariance.shape @ by_shape + 2.0 * covariance.mixed @ by_shape / state.height
    )
    back = found.back
    xy, height = state.xy[back], state.height[back]
    sigma_px, height_error = error[back, :2], error[back, 2]
    flags = np.zeros(len(xy), dtype=np.int64)
    flags |= np.where(last[back] > 0.5 * np.maximum(sigma_px.max(axis=1), 1e-3), int(Flag.NOT_CONVERGED), 0)
    # What began at the edge may have been drawn in from there.
    cut = _at_edge(xy, problem.values.shape, width) | _at_edge(start, problem.values.shape, width)
    flags |= np.where(cut, int(Flag.CUT), 0)
    flags |= doubts(xy, start, width, height, height_error)
    intensity = height * volume
    return ScanFit(
        FoundColumns(
            xy,
            sigma_px,
            intensity,
            np.abs(intensity) * np.sqrt(np.maximum(relative[back], 0.0)),
            np.full(len(xy), determinant**-0.25),
            flags,
            pixel_size_A,
        ),
        state.shift,
        (float(found.sigma[0]), float(found.sigma[1])),
        (float(a), float(b), float(c), float(w)),
        model.background,
        model.image,
        found.noise,
        found.rounds,
    )
