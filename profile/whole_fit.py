"""Fit a cost model to times of whole subnets, for devices on which nobody timed the pieces.

A subnet's time is modelled as a sum over its pieces of a few quantities that a device spends time on (layers launched,
multiply-adds, numbers moved), each with a price that is never negative, plus the overhead of a run. Eight prices, not
one for each of a thousand pieces: that is why few subnets suffice, and why the result is a latency table like any
other. Relies on ``additive.py`` for the quantities of whole populations, and on scipy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deps.ground.console import require
from deps.ground.errors import LatencyTableError
from deps.profile.additive import evaluate, tabulate
from deps.supernet.pieces import BottleneckPlan, InvertedPlan, LinearPlan, Piece
from deps.supernet.sampling import Genes
from deps.supernet.space import SearchSpace

Array = NDArray[np.float64]

MIN_SUBNETS = 10
"""With fewer distinct subnets an error would mean nothing."""

PULLS = (0.0, 1e-3, 1e-2, 1e-1, 1.0)
"""How strongly prices may be drawn to those of the simple model; cross-validation chooses."""

FOLDS = 5
ROUNDS = 25
"""Reweighted least squares settle within so many rounds."""

# A residual below half a percent is as good as none: without a floor, one net would get an infinite weight.
RESIDUAL_FLOOR = 0.005


def _layers(piece: Piece) -> float:
    squeeze = isinstance(piece, InvertedPlan) and piece.squeeze is not None
    return max(1, sum(1 for _ in piece.convolutions())) + 2 * squeeze


def _squeezes(piece: Piece) -> float:
    return float(isinstance(piece, InvertedPlan) and piece.squeeze is not None)


def _hard_swishes(piece: Piece) -> float:
    return float(sum(conv.activation == "hswish" for conv in piece.convolutions()))


def _blocks(piece: Piece) -> float:
    return float(isinstance(piece, InvertedPlan | BottleneckPlan))


def _dense_macs(piece: Piece) -> float:
    return float(piece.macs - _depthwise_macs(piece))


def _depthwise_macs(piece: Piece) -> float:
    return float(sum(conv.macs for conv in piece.convolutions() if conv.groups > 1))


def _moved(piece: Piece) -> float:
    if isinstance(piece, LinearPlan):
        return float(piece.peak_elements)
    convolutions = list(piece.convolutions())
    if not convolutions:
        return float(piece.peak_elements)
    return float(sum(conv.elements_in + conv.elements_out for conv in convolutions))


def _weights(piece: Piece) -> float:
    return float(piece.params)


QUANTITIES: dict[str, Callable[[Piece], float]] = {
    "layers": _layers,
    "blocks": _blocks,
    "squeeze-excites": _squeezes,
    "hard swishes": _hard_swishes,
    "dense multiply-adds": _dense_macs,
    "depthwise multiply-adds": _depthwise_macs,
    "numbers moved": _moved,
    "weights": _weights,
}
"""What a piece makes a device do; the price of each is fitted."""


@dataclass(frozen=True, slots=True)
class Prices:
    """The fitted model."""

    overhead_ms: float
    """What a run takes beside its pieces."""

    of: dict[str, float]
    """Milliseconds of one unit of each quantity."""

    pull: float
    """How strongly the simple model drew; chosen by cross-validation."""

    def piece_ms(self, piece: Piece) -> float:
        """Return the time of one piece."""
        return sum(price * QUANTITIES[name](piece) for name, price in self.of.items() if price)


def quantities(space: SearchSpace, genes: Genes) -> Array:
    """Return what each subnet makes a device do, shape (nets, quantities)."""
    tables = [tabulate(space, of, dtype=np.float64) for of in QUANTITIES.values()]
    return np.stack(evaluate(tables, genes), axis=1)


def fit_prices(rows_NQ: Array, measured_ms: Array, *, seed: int = 0) -> Prices:
    """Return the prices that explain the times best, by the mean of the absolute relative errors.

    That mean is what is reported, and a few disturbed measurements cannot move it far. How strongly the prices are
    drawn to the simple model (multiply-adds and layers only) is chosen by cross-validation.

    Args:
        rows_NQ: what ``quantities`` says of the measured subnets.
        measured_ms: their times, shape (nets,).
        seed: of the folds.

    Raises:
        LatencyTableError: there are too few subnets.
        MissingExtraError: scipy is not installed.
    """
    design_NK, unit_K = _design(rows_NQ)
    pull = _best_pull(design_NK, measured_ms, seed)
    prices_K = _solve(design_NK, measured_ms, _simple(design_NK, measured_ms), pull) / unit_K
    of = {name: float(price) for name, price in zip(QUANTITIES, prices_K[1:], strict=True)}
    return Prices(float(prices_K[0]), of, pull)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What models that never saw a subnet say of it."""

    predicted_ms: Array
    """Shape (nets,); each by a model fitted on the other folds, its pull chosen there too."""

    flops_line_ms: Array
    """The same by a straight line through the multiply-adds."""

    models: tuple[Prices, ...]
    """One a fold: how much they differ says how certain the prices are."""


def cross_validate(genes: Genes, rows_NQ: Array, measured_ms: Array, *, seed: int = 0) -> LeftOut:
    """Return predictions of every subnet by models that never saw it, nor another timing of the same subnet.

    Raises:
        LatencyTableError: there are too few distinct subnets.
    """
    from deps.profile.fit import flops_line

    fold_N = _folds(genes, seed)
    predicted, line = np.empty(len(measured_ms)), np.empty(len(measured_ms))
    names = list(QUANTITIES)
    macs = rows_NQ[:, names.index("dense multiply-adds")] + rows_NQ[:, names.index("depthwise multiply-adds")]
    models = []
    for fold in range(FOLDS):
        inside, outside = fold_N != fold, fold_N == fold
        model = fit_prices(rows_NQ[inside], measured_ms[inside], seed=seed)
        predicted[outside] = predict(model, rows_NQ[outside])
        line[outside] = flops_line(macs[inside], measured_ms[inside], macs[outside])
        models.append(model)
    return LeftOut(predicted, line, tuple(models))


def predict(model: Prices, rows_NQ: Array) -> Array:
    """Return the milliseconds of each subnet from its quantities."""
    return np.asarray(model.overhead_ms + rows_NQ @ np.array([model.of[name] for name in QUANTITIES]))


def _folds(genes: Genes, seed: int) -> NDArray[np.intp]:
    """Return the fold of each row; rows of one subnet share theirs."""
    distinct, subnet_N = np.unique(genes, axis=0, return_inverse=True)
    if len(distinct) < MIN_SUBNETS:
        raise LatencyTableError(
            f"only {len(distinct)} distinct subnets were measured; expected at least {MIN_SUBNETS}, better 50: measure "
            "more, of all sizes"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    return np.asarray((order % FOLDS)[subnet_N.reshape(-1)])


def _design(rows_NQ: Array) -> tuple[Array, Array]:
    """Return the overhead and the quantities in units of their means, and these units."""
    design = np.concatenate([np.ones((len(rows_NQ), 1)), rows_NQ], axis=1)
    unit = design.mean(axis=0)
    # What no subnet has (squeeze-excite in ProxylessNAS) costs nothing, whatever its price.
    unit[unit == 0] = 1.0
    return design / unit, unit


def _simple(design_NK: Array, measured_ms: Array) -> Array:
    """Return the prices of the simple model: one for multiply-adds, dense or depthwise, one for layers, and no more."""
    names = ["overhead", *QUANTITIES]
    dense, depthwise, layers = (names.index(n) for n in ("dense multiply-adds", "depthwise multiply-adds", "layers"))
    both = np.stack([(design_NK[:, dense] + design_NK[:, depthwise]) / 2, design_NK[:, layers]], axis=1)
    macs_price, layer_price = _solve(both, measured_ms, np.zeros(2), 0.0)
    prices = np.zeros(design_NK.shape[1])
    prices[[dense, depthwise, layers]] = macs_price / 2, macs_price / 2, layer_price
    return prices


def _solve(design_NK: Array, measured_ms: Array, towards_K: Array, pull: float) -> Array:
    """Return the prices, none negative, of the least mean absolute relative error plus the pull.

    Reweighted least squares: each round weighs a net by the inverse of its last residual, which turns squares into
    absolute values; Source: Schlossmacher, JASA 68 (1973).
    """
    nnls = require("scipy.optimize", "compile").nnls
    relative_NK, scale = design_NK / measured_ms[:, None], float(np.median(measured_ms))
    weight_N = np.ones(len(relative_NK))
    ridge = np.sqrt(pull) / scale * np.eye(relative_NK.shape[1])
    prices = towards_K
    for _ in range(ROUNDS):
        normal = (relative_NK * weight_N[:, None]).T @ relative_NK / weight_N.sum() + ridge.T @ ridge
        aim = relative_NK.T @ weight_N / weight_N.sum() + ridge.T @ ridge @ towards_K
        # NNLS wants a least-squares problem: a root of the normal matrix is one, and eight rows are quick.
        value, vectors = np.linalg.eigh(normal)
        keep = value > 1e-12 * value[-1]
        root = np.sqrt(value[keep])[:, None] * vectors[:, keep].T
        right = (vectors[:, keep].T @ aim) / np.sqrt(value[keep])
        updated = nnls(root, right)[0]
        is_settled = np.abs(updated - prices).max() < 1e-4 * scale
        prices = updated
        if is_settled:
            break
        weight_N = 1 / np.maximum(np.abs(relative_NK @ prices - 1), RESIDUAL_FLOOR)
    return np.asarray(prices, np.float64)


def _best_pull(design_NK: Array, measured_ms: Array, seed: int) -> float:
    """Return the pull whose models err least on the folds that they did not see."""
    rng = np.random.default_rng(seed)
    fold_N = rng.permutation(len(measured_ms)) % FOLDS
    errors = [0.0] * len(PULLS)
    for fold in range(FOLDS):
        inside, outside = fold_N != fold, fold_N == fold
        towards = _simple(design_NK[inside], measured_ms[inside])
        for i, pull in enumerate(PULLS):
            prices = _solve(design_NK[inside], measured_ms[inside], towards, pull)
            errors[i] += float(np.abs(design_NK[outside] @ prices / measured_ms[outside] - 1).sum())
    return PULLS[int(np.argmin(errors))]
