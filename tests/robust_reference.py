"""Robust rules once more, in float64, straight from the papers: slow, short and independent of ours.

`x` is a matrix of N rows, `w` its N weights.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def mean(x: Array, w: Array) -> Array:
    total: Array = (w[:, None] * x).sum(0) / w.sum()
    return total


def norm_capped_mean(x: Array, w: Array) -> Array:
    norms = np.linalg.norm(x, axis=1)
    cap = np.sort(norms)[(len(x) - 1) // 2]
    return mean(x * np.minimum(1, cap / np.maximum(norms, 1e-300))[:, None], w)


def mean_unless_far(x: Array, w: Array, robust: Array, arms_at: float) -> tuple[Array, float]:
    """And how far from the decision it was, in median distances."""
    distances = np.sort(np.linalg.norm(x - robust, axis=1))
    m = mean(x, w)
    margin = arms_at * distances[(len(x) - 1) // 2] - float(np.linalg.norm(m - robust))
    return (m if margin >= 0 else robust), margin


def coordinate_median(x: Array, w: Array) -> Array:
    """Any minimiser of sum_i w_i |x_i - m|; the middle of all of them."""
    out = np.empty(x.shape[1])
    for column in range(x.shape[1]):
        points = np.unique(x[:, column])
        below = np.array([w[x[:, column] <= point].sum() for point in points])
        above = np.array([w[x[:, column] >= point].sum() for point in points])
        half = w.sum() / 2 * (1 - 1e-9)
        minimisers = points[(below >= half) & (above >= half)]
        out[column] = (minimisers[0] + minimisers[-1]) / 2
    return out


def trimmed_mean(x: Array, w: Array, trim: int) -> Array:
    out = np.empty(x.shape[1])
    for column in range(x.shape[1]):
        order = np.lexsort((w, x[:, column]))[trim : len(x) - trim]
        out[column] = (w[order] * x[order, column]).sum() / w[order].sum()
    return out


def geometric_median(x: Array, w: Array, iterations: int, nu: float | None) -> Array:
    floor = 1e-3 * np.sort(np.linalg.norm(x, axis=1))[(len(x) - 1) // 2] if nu is None else nu
    z = mean(x, w)
    for _ in range(iterations):
        z = mean(x, w / np.maximum(max(floor, 1e-150), np.linalg.norm(x - z, axis=1)))
    return z


def krum(x: Array, w: Array, num_byzantine: int, num_selected: int) -> Array:
    scores = []
    for i in range(len(x)):
        distances = np.sort([((x[i] - x[j]) ** 2).sum() for j in range(len(x)) if j != i])
        scores.append(distances[: max(0, len(x) - num_byzantine - 2)].sum())
    best = np.argsort(scores, kind="stable")[:num_selected]
    return mean(x[best], w[best])


def centered_clip(x: Array, w: Array, tau: float | None, iterations: int, center: Array) -> Array:
    v = center.copy()
    for _ in range(iterations):
        distances = np.linalg.norm(x - v, axis=1)
        bound = np.sort(distances)[(len(x) - 1) // 2] if tau is None else tau
        factors = np.where(distances <= bound, 1.0, bound / np.maximum(distances, 1e-300))
        v = v + (w[:, None] * factors[:, None] * (x - v)).sum(0) / w.sum()
    return v


def nearest_neighbor_mixing(x: Array, w: Array, num_byzantine: int) -> Array:
    rows = []
    for i in range(len(x)):
        distances = np.linalg.norm(x - x[i], axis=1)
        distances[i] = -1
        nearest = np.argsort(distances, kind="stable")[: len(x) - num_byzantine]
        rows.append(mean(x[nearest], w[nearest]))
    return np.array(rows)


def bucketing(x: Array, w: Array, order: list[int], size: int) -> tuple[Array, Array]:
    buckets = [order[start : start + size] for start in range(0, len(x), size)]
    return np.array([mean(x[b], w[b]) for b in buckets]), np.array([w[b].sum() for b in buckets])
