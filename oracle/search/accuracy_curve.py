"""Mean accuracy as a smooth function of max_lr, for every cycle: a Gaussian process, its numbers shared by all cycles.

    z[c, s] = mu(x_c) + a_s + w_c (g_s(x_c) + e_cs)      x = log10 max_lr; accuracies in points

mu: a level that is all but free, and a Matern 5/2 process of standard deviation tau and length l. a_s: a seed's level, of
standard deviation `level`. g_s: what a seed has of its own, a Matern 5/2 process of standard deviation `own` and length
l / 4. e: noise, of standard deviation `noise`. w_c: a candidate's error rate over the best one's.

The five numbers are where their posterior is highest (MAP), given all cycles; what they leave open widens the spread of the
curve. What is asked of a cycle is linear in its accuracies from there on, so it may have any subset of candidates x seeds.
Numbers only: numpy and scipy.

The priors were measured on problems of 40 to 76 seeds each; benchmarks/confidence.py says on which, and judges on another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.optimize import minimize

LEVEL = 2.0  # depths of the floor: standard deviation of the curve's level, which is free but for rounding
FLOOR = 4.0  # tolerances, or halves of the best's binomial error: accuracies this far below it are not told apart
NEAR = 0.75  # of the floor's depth: what lies within decides how long the curve is
# Of tau, the length, the seeds' level, own and noise: the centres of their priors (tau in depths of the floor, the length
# in decades of max_lr that are near, the others in the best accuracy's binomial standard deviation); and the standard
# deviations of their logarithms.
CENTRES = np.array([0.5, 1.0, 0.5, 0.35, 0.3])
SPREADS = np.array([0.3, 0.15, 0.7, 0.7, 0.7])
BOUND = 3.0  # of a number, in standard deviations of its prior
STEP = 0.01  # of a number, the same, in which the curvature of their density is measured
LEAST_NOISE = (
    1e-3  # depths of the floor: an accuracy's least standard deviation; without it matrices lose their factors
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleAccuracies:
    """What the curve of one cycle is drawn through."""

    rates: Float[ndarray, "C"]  # log10 max_lr, ascending
    accuracies: Float[ndarray, "C S"]  # points; NaN where not tried, -inf where diverged
    num_validation: int
    tolerance: float  # points

    @property
    def complete(self) -> Bool[ndarray, "C"]:
        """Candidates that every seed has tried, and none diverged at."""
        found: np.ndarray = np.isfinite(self.accuracies).all(1)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyCurve:
    """The posterior of a cycle's mean accuracy at candidates."""

    mean: Float[ndarray, "G"]  # points
    covariance: Float[ndarray, "G G"]

    @property
    def std(self) -> Float[ndarray, "G"]:
        """Of each candidate's accuracy, in points."""
        found: np.ndarray = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        return found

    def std_of_gap(self, one: int, other: int) -> float:
        """Of the difference of two candidates' accuracies, in points."""
        variances = self.covariance
        return math.sqrt(max(0.0, variances[one, one] + variances[other, other] - 2 * variances[one, other]))

    def draws(self, number: int, random: np.random.Generator) -> Float[ndarray, "D G"]:
        """Curves drawn from the posterior."""
        values, vectors = np.linalg.eigh(self.covariance)
        factor = vectors * np.sqrt(np.maximum(values, 0.0))  # rounding leaves some a little below 0 where all is known
        found: np.ndarray = self.mean + random.standard_normal((number, len(self.mean))) @ factor.T
        return found


def accuracy_curve(cycles: Sequence[CycleAccuracies], rates: Float[ndarray, "G"]) -> AccuracyCurve:
    """The posterior of the last cycle's mean accuracy at `rates` (log10 max_lr), given these validation images.

    Earlier cycles take part in the five numbers alone. The mean is that of the most probable numbers; the covariance is
    averaged over others that are plausible, and counts how far their means lie from it.
    """
    tables = [_Table.of(cycle) for cycle in cycles]
    model = _Model(tables)
    found = minimize(
        model.cost, np.zeros(len(SPREADS)), jac=True, method="L-BFGS-B", bounds=[(-BOUND, BOUND)] * len(SPREADS)
    )
    curve = model.posterior(found.x, rates)
    others = [model.posterior(v, rates) for v in model.plausible(found.x, found.jac)]
    covariances = [each.covariance + np.outer(each.mean - curve.mean, each.mean - curve.mean) for each in others]
    return AccuracyCurve(mean=curve.mean, covariance=np.mean(covariances, axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Seeds that tried the same candidates."""

    tried: np.ndarray  # [c] indices of candidates
    z: Float[ndarray, "c s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A cycle's accuracies as the model takes them: from the best one on, no deeper than the floor."""

    distances: Float[ndarray, "C C"]
    rates: Float[ndarray, "C"]
    groups: tuple[_Group, ...]
    weights: Float[ndarray, "C"]
    binomial: float  # standard deviation of the best accuracy, points
    best: float  # points
    depth: float  # of the floor, points
    decades: float  # of max_lr that are near the best

    @classmethod
    def of(cls, cycle: CycleAccuracies) -> "_Table":
        there, finished = ~np.isnan(cycle.accuracies), np.isfinite(cycle.accuracies)
        mean = _mean(cycle.accuracies, finished)
        compared = cycle.complete if cycle.complete.any() else finished.any(1)
        best = float(mean[compared].max()) if compared.any() else 0.0
        binomial = _binomial(best / 100, cycle.num_validation)
        depth = FLOOR * max(cycle.tolerance, binomial / 2)
        near = cycle.complete & (mean >= best - depth / 2)
        # A seed may lie below all others, and would reach the floor sooner: each is measured from its own level.
        levels = (cycle.accuracies[near].mean(0) - mean[near].mean()) if near.any() else np.zeros(there.shape[1])
        above = np.where(finished, cycle.accuracies, -np.inf) - best - levels
        z = np.where(there, np.maximum(above, -depth) + levels, np.nan)
        shortfall = np.clip(-_mean(z, there), 0.0, depth)
        error = max(100 - best, 100 / (cycle.num_validation + 2))
        return cls(
            distances=np.abs(cycle.rates[:, None] - cycle.rates),
            rates=cycle.rates,
            groups=_groups(z),
            weights=(error + shortfall) / error,
            binomial=binomial,
            best=best,
            depth=depth,
            decades=_decades(cycle.rates, shortfall <= NEAR * depth),
        )


def _mean(values: Float[ndarray, "C S"], known: Bool[ndarray, "C S"]) -> Float[ndarray, "C"]:
    """Over the seeds that are known; -inf where none is."""
    counts = known.sum(1)
    return np.where(counts > 0, np.where(known, values, 0.0).sum(1) / np.maximum(counts, 1), -np.inf)


def _binomial(accuracy: float, num_validation: int) -> float:
    """Standard deviation of an accuracy, in points; at 0 and 1 that of one image more and one right, or wrong."""
    least = 1 / (num_validation + 2)
    rate = min(max(accuracy, least), 1 - least)
    return 100 * math.sqrt(rate * (1 - rate) / num_validation)


def _decades(rates: Float[ndarray, "C"], near: Bool[ndarray, "C"]) -> float:
    """What the candidates that are near the best span, each with half a step to either side."""
    step = float(np.median(np.diff(rates))) if len(rates) > 1 else 0.1
    return float(np.ptp(rates[near])) + step if near.any() else step


def _groups(z: Float[ndarray, "C S"]) -> tuple[_Group, ...]:
    seeds: dict[tuple[int, ...], list[int]] = {}
    for seed in range(z.shape[1]):
        seeds.setdefault(tuple(np.flatnonzero(~np.isnan(z[:, seed]))), []).append(seed)
    return tuple(
        _Group(tried=np.array(tried), z=z[np.ix_(tried, members)]) for tried, members in seeds.items() if tried
    )


def _matern(ratio: Float[ndarray, "A B"]) -> tuple[Float[ndarray, "A B"], Float[ndarray, "A B"]]:
    """Matern 5/2 at distances over the length, and its derivative by the logarithm of the length."""
    r = math.sqrt(5) * ratio
    decay = np.exp(-r)
    return (1 + r + r * r / 3) * decay, r * r * (1 + r) / 3 * decay


def _seed_covariance(table: _Table, numbers: Float[ndarray, "5"]) -> list[Float[ndarray, "C C"]]:
    """Of the accuracies of one seed about the curve; and its derivatives by the numbers' logarithms, tau's left out."""
    _, length, level, own, noise = numbers
    matern, slope = _matern(table.distances / (length / 4))
    scaled = np.outer(table.weights, table.weights) * own**2
    shared = np.full_like(matern, level**2)
    diagonal = np.diag((table.weights * noise) ** 2)
    least = (LEAST_NOISE * table.depth) ** 2 * np.eye(len(matern))
    covariance = shared + scaled * matern + diagonal + least
    return [covariance, scaled * slope, 2 * shared, 2 * scaled * matern, 2 * diagonal]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """What a cycle's accuracies say of its curve: a normal likelihood, as its precision P and h = P times its mean."""

    precision: Float[ndarray, "C C"]
    shift: Float[ndarray, "C"]
    log_density: float
    inverses: list[Float[ndarray, "c c"]]  # of each group's covariance

    @classmethod
    def of(cls, table: _Table, covariance: Float[ndarray, "C C"]) -> "_Evidence":
        """`covariance`: of one seed's accuracies about the curve."""
        size = len(table.rates)
        precision, shift, log_density, inverses = np.zeros((size, size)), np.zeros(size), 0.0, []
        for group in table.groups:
            own = covariance[np.ix_(group.tried, group.tried)]
            factor, inverse = np.linalg.cholesky(own), np.linalg.inv(own)
            number = group.z.shape[1]
            log_density -= number * float(np.log(np.diag(factor)).sum())
            log_density -= 0.5 * float((group.z * (inverse @ group.z)).sum())
            precision[np.ix_(group.tried, group.tried)] += number * inverse
            shift[group.tried] += inverse @ group.z.sum(1)
            inverses.append(inverse)
        return cls(precision=precision, shift=shift, log_density=log_density, inverses=inverses)

    def on(self, prior: Float[ndarray, "C C"]) -> tuple[Float[ndarray, "C"], Float[ndarray, "C C"], float]:
        """With a prior covariance K: (I + P K)^-1 h, which K makes the posterior's mean; (I + P K)^-1 P; log |I + P K|."""
        system = np.eye(len(prior)) + self.precision @ prior
        solved = np.linalg.solve(system, np.column_stack([self.shift, self.precision]))
        return solved[:, 0], solved[:, 1:], float(np.linalg.slogdet(system)[1])


class _Model:
    """The density of the five numbers, as standard deviations of their priors' logarithms from the centres."""

    def __init__(self, tables: Sequence[_Table]) -> None:
        self._tables = tables
        self._decades = float(np.median([table.decades for table in tables]))

    def cost(self, v: Float[ndarray, "5"]) -> tuple[float, Float[ndarray, "5"]]:
        """Minus the log posterior density of the numbers, but for a constant, and its gradient."""
        cost, gradient = 0.5 * float(v @ v), v.copy()
        for table in self._tables:
            density, slopes = self._log_density(table, self._numbers(table, v))
            cost -= density
            gradient -= slopes * SPREADS
        return cost, gradient

    def plausible(self, v: Float[ndarray, "5"], slope: Float[ndarray, "5"]) -> Float[ndarray, "10 5"]:
        """Points that have the covariance of the numbers' posterior, about where it is highest (Laplace's approximation).

        `slope`: the cost's gradient at `v`. Two points along each axis of the curvature: the sigma points of Julier and
        Uhlmann (1997).
        """
        size = len(v)
        curvature = np.array([self.cost(v + STEP * axis)[1] - slope for axis in np.eye(size)]) / STEP
        values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
        reach = (vectors * np.sqrt(size / np.maximum(values, 1.0))).T  # data never tell less than the prior, which is 1
        points: np.ndarray = np.clip(np.concatenate([v + reach, v - reach]), -BOUND, BOUND)
        return points

    def posterior(self, v: Float[ndarray, "5"], rates: Float[ndarray, "G"]) -> AccuracyCurve:
        """Of the last cycle's curve."""
        table = self._tables[-1]
        numbers = self._numbers(table, v)
        tau, length = numbers[:2]

        def prior(a: Float[ndarray, "A"], b: Float[ndarray, "B"]) -> Float[ndarray, "A B"]:
            found: np.ndarray = (LEVEL * table.depth) ** 2 + tau**2 * _matern(np.abs(a[:, None] - b) / length)[0]
            return found

        evidence = _Evidence.of(table, _seed_covariance(table, numbers)[0])
        pull, freed, _ = evidence.on(prior(table.rates, table.rates))
        across = prior(rates, table.rates)
        spread = prior(rates, rates) - across @ freed @ across.T
        return AccuracyCurve(mean=table.best + across @ pull, covariance=(spread + spread.T) / 2)

    def _numbers(self, table: _Table, v: Float[ndarray, "5"]) -> Float[ndarray, "5"]:
        units = np.array([table.depth, self._decades, table.binomial, table.binomial, table.binomial])
        numbers: np.ndarray = CENTRES * units * np.exp(v * SPREADS)
        return numbers

    def _log_density(self, table: _Table, numbers: Float[ndarray, "5"]) -> tuple[float, Float[ndarray, "5"]]:
        """Of a cycle's accuracies, the curve integrated out; and its gradient by the numbers' logarithms.

        With A a seed's covariance, K the curve's, P and h the evidence, m and S the mean and covariance of the curve's
        posterior, the derivative by A is A^-1 (R R' + n S - n A) A^-1 / 2, R the residuals z - m of n seeds, and by K it is
        (a a' - W) / 2, a = K^-1 m and W = P - P S P (Fisher's identity).
        """
        covariance, *derivatives = _seed_covariance(table, numbers)
        evidence, tau = _Evidence.of(table, covariance), numbers[0]
        matern, slope = _matern(table.distances / numbers[1])
        prior = (LEVEL * table.depth) ** 2 + tau**2 * matern
        pull, freed, log_det = evidence.on(prior)
        mean, spread = prior @ pull, prior - prior @ freed @ prior
        density = evidence.log_density - 0.5 * log_det + 0.5 * float(evidence.shift @ mean)
        by_prior = 0.5 * (np.outer(pull, pull) - freed)
        gradient = np.zeros(5)
        gradient[0] = float((by_prior * matern).sum()) * 2 * tau**2
        gradient[1] = float((by_prior * slope).sum()) * tau**2
        by_seed = np.zeros_like(prior)
        for group, inverse in zip(table.groups, evidence.inverses, strict=True):
            place = np.ix_(group.tried, group.tried)
            residuals, number = group.z - mean[group.tried, None], group.z.shape[1]
            scatter = residuals @ residuals.T + number * (spread[place] - covariance[place])
            by_seed[place] += 0.5 * inverse @ scatter @ inverse
        gradient[1:] += [float((by_seed * derivative).sum()) for derivative in derivatives]
        return density, gradient
