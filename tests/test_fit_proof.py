"""The certificate and the exact inner solve, against brute force, scipy and random curves."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from silo_fit.certify import certify, constant_hits
from silo_fit.curve import SiloCurve, shape
from silo_fit.determine import NAMES, determine
from silo_fit.feasible import best_curves, solve
from silo_fit.fit import fit
from silo_fit.tables import Intervals, read_intervals

Q, BETA = (0.0, 3.0), (3.0, 6.0)


def intervals_of(cycles, lo, best, hi, pruning_rate=0.2):
    arrays = {name: np.array(values, dtype=float) for name, values in zip(("cycles", "lo", "max_lr", "hi"), (cycles, lo, best, hi), strict=True)}  # fmt: skip  # noqa: E501
    return Intervals(name="test", **arrays, pruning_rate=pruning_rate)


def planted(seed, *, num=12, width=0.2, noise=0.0, pruning_rate=0.2):
    """Intervals around a SILO curve, with the curve somewhere inside before noise."""
    rng = np.random.default_rng(seed)
    curve = SiloCurve(
        eps=rng.uniform(0.01, 0.05), delta=rng.uniform(0.02, 0.1), q=rng.uniform(*Q), beta=rng.uniform(*BETA),
        pruning_rate=pruning_rate,
    )  # fmt: skip
    cycles = np.sort(rng.choice(2 * num, num, replace=False))
    best = curve(cycles) * np.exp(noise * rng.normal(size=num))
    low = rng.uniform(0, 1, num)
    return curve, intervals_of(cycles, best * (1 - width * low), best, best * (1 + width * (1 - low)), pruning_rate)


@st.composite
def tables(draw):
    """Tables of every kind: any widths, rising or not, touching, or of no width."""
    num = draw(st.integers(1, 7))
    cycles = sorted(draw(st.sets(st.integers(0, 15), min_size=num, max_size=num)))
    rate = st.integers(1, 12).map(lambda step: step / 100)  # few values, so that ends meet
    ends = [sorted((draw(rate), draw(rate))) for _ in cycles]
    best = [low + draw(st.sampled_from((0, 0.5, 1))) * (high - low) for low, high in ends]
    lo, hi = zip(*ends, strict=True)
    return intervals_of(cycles, lo, best, hi, draw(st.sampled_from((0.05, 0.2, 0.5, 0.8))))


@given(tables(), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_certificate_is_never_beaten_by_random_curves(table, seed):
    proof = certify(table, q=Q, beta=BETA)
    rng = np.random.default_rng(seed)
    num = 3000
    q, beta = rng.uniform(*Q, num), rng.uniform(*BETA, num)
    values = shape(table.cycles, q[:, None], beta[:, None], table.pruning_rate)
    # Aim each curve at two intervals: through a point of each, where that gives eps, delta >= 0.
    first, second = rng.integers(0, len(table.cycles), (2, num))
    targets = [table.lo[at] + rng.choice([0, 0.5, 1], num) * (table.hi - table.lo)[at] for at in (first, second)]
    rows = np.arange(num)
    slope = values[rows, second] - values[rows, first]
    delta = np.divide(targets[1] - targets[0], slope, out=np.zeros(num), where=np.abs(slope) > 1e-9).clip(min=0)
    eps = (targets[0] - delta * values[rows, first]).clip(min=0)
    heights = eps[:, None] + delta[:, None] * values
    hits = ((heights >= table.lo) & (heights <= table.hi)).sum(axis=1)
    assert hits.max() <= proof.most_hits
    assert proof.hits <= proof.most_hits


def best_subset(table, q, beta):
    """Most hits for one (q, beta) by asking a linear program about every set of cycles, largest first."""
    values = shape(table.cycles, q, beta, table.pruning_rate)
    for size in range(len(values), 0, -1):
        for members in itertools.combinations(range(len(values)), size):
            at = list(members)
            sides = np.column_stack([np.ones(size), values[at]])
            limits = np.concatenate([table.hi[at], -table.lo[at]])
            if linprog([0, 0], A_ub=np.vstack([sides, -sides]), b_ub=limits, bounds=[(0, None)] * 2).status == 0:
                return size
    return 0


@pytest.mark.parametrize("seed", range(12))
def test_hits_for_one_q_and_beta_equal_brute_force(seed):
    _, table = planted(seed, num=7, width=0.1, noise=0.15)
    rng = np.random.default_rng(seed)
    q, beta = rng.uniform(*Q), rng.uniform(*BETA)
    expected = best_subset(table, q, beta)
    assert solve(table, q, beta).hits == expected
    proof = certify(table, q=(q, q), beta=(beta, beta))
    assert (proof.hits, proof.most_hits) == (expected, expected)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pruning_rate", [0.1, 0.2, 0.5])
def test_certificate_is_tight_and_reached(seed, pruning_rate):
    _, table = planted(seed, num=20, width=0.15, noise=0.1, pruning_rate=pruning_rate)
    proof = certify(table, q=Q, beta=BETA)
    assert proof.certified
    assert solve(table, proof.q, proof.beta).hits == proof.most_hits


@pytest.mark.parametrize("width", [0, 1e-6, 0.01, 0.3])
def test_planted_curve_is_found_whatever_the_width(width):
    for seed in range(3):
        _, table = planted(seed, width=width)
        proof = certify(table, q=Q, beta=BETA)
        assert (proof.hits, proof.most_hits) == (12, 12)


def test_rise_that_only_a_negative_eps_would_reach_is_not_counted():
    """At q = 1, beta = 5 the shape is 0.44 and 0.86 at cycles 4 and 5, so a line through both starts at -0.08."""
    table = intervals_of([4, 5], [0.009, 0.099], [0.01, 0.1], [0.011, 0.101])
    proof = certify(table, q=(1, 1), beta=(5, 5))
    assert (proof.hits, proof.most_hits) == (1, 1)
    assert solve(table, 1, 5).hits == 1


def test_gap_just_beyond_the_tolerance_is_not_hit():
    """At one cycle's distance q = beta = fixed, two cycles before the rise must share a value."""
    for gap, hits in ((0.9e-9, 2), (2.2e-9, 1)):  # each interval is forgiven 1e-9 of the largest hi, which is 1
        table = intervals_of([0, 1], [0.5, 1 - 0.3], [0.6, 0.8], [0.7 - gap, 1], 0.2)
        proof = certify(table, q=(1, 1), beta=(5, 5))
        assert proof.most_hits == hits, gap


def test_work_that_runs_out_leaves_an_honest_bound():
    _, table = planted(4, num=30, width=0.02, noise=0.05, pruning_rate=0.05)
    full = certify(table, q=Q, beta=BETA)
    short = certify(table, q=Q, beta=BETA, most_events=1)
    assert full.certified
    assert not short.certified
    assert short.hits <= full.hits <= short.most_hits


def test_gap_that_the_arithmetic_cannot_decide_ends_uncertified():
    """Two cycles before the rise, twice the tolerance apart: inside or not is a matter of the last digits."""
    table = intervals_of([0, 1], [0.5, 0.7], [0.6, 0.8], [0.7 - 2e-9, 1])
    proof = certify(table, q=(1, 3), beta=BETA)
    assert (proof.hits, proof.most_hits) == (1, 2)
    assert proof.num_boxes < 25_000


def test_whole_q_never_hits_more_than_real_q():
    for seed in range(10):
        _, table = planted(seed, width=0.03)
        whole, real = (certify(table, q=Q, beta=BETA, whole_q=only) for only in (True, False))
        assert whole.certified
        assert whole.hits <= real.hits
        assert whole.q == int(whole.q)


def test_range_without_a_whole_q_has_no_hits_with_one():
    _, table = planted(0)
    assert certify(table, q=(0.2, 0.8), beta=BETA, whole_q=True).hits == -1


@pytest.mark.parametrize("seed", range(10))
def test_eps_and_delta_are_the_least_squares_in_log_space(seed):
    """Against scipy, within the region that hits the same cycles."""
    curve, table = planted(seed, num=8, width=0.25)
    found = solve(table, curve.q, curve.beta)
    values = shape(table.cycles, curve.q, curve.beta, 0.2)
    lo, hi, best = (table.scaled(name) for name in ("lo", "hi", "max_lr"))
    assert found.hits == 8

    def loss(point):
        return float(np.mean(np.log((point[0] + point[1] * values) / best) ** 2))

    limits = [{"type": "ineq", "fun": lambda p: p[0] + p[1] * values - lo}, {"type": "ineq", "fun": lambda p: hi - p[0] - p[1] * values}]  # fmt: skip  # noqa: E501
    start = np.array([curve.eps, curve.delta]) / table.scale
    other = minimize(loss, start, bounds=[(0, None)] * 2, constraints=limits, method="SLSQP", options={"ftol": 1e-15})
    assert found.loss == pytest.approx(loss((found.eps, found.delta)), abs=1e-15)
    assert found.loss <= other.fun + 1e-9  # what SLSQP reaches, to its own accuracy


def test_least_squares_stay_inside_the_intervals_that_are_hit():
    """The optimum of cycle 5 sits at an end and pulls, but may not pull the curve out of cycle 7's interval."""
    table = intervals_of([0, 5, 7], [0.02, 0.05, 0.05], [0.03, 0.09, 0.05], [0.04, 0.09, 0.06])
    found = solve(table, 1.0, 5.0)
    curve = SiloCurve(eps=found.eps * 0.09, delta=found.delta * 0.09, q=1, beta=5, pruning_rate=0.2)
    assert found.hits == 3
    assert ((curve([0, 5, 7]) >= table.lo) & (curve([0, 5, 7]) <= table.hi)).all()  # without any tolerance


def curve_of(table, name, found, at):
    """The numbers of a solution, by name."""
    eps, delta = found.eps * table.scale, found.delta * table.scale
    return {"eps": eps, "delta": delta, "top": eps + delta, "q": at[0], "beta": at[1]}[name]


@given(tables(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_no_curve_with_as_many_hits_lies_outside_the_ranges(table, seed):
    proof = certify(table, q=Q, beta=BETA)
    limits = determine(table, hits=proof.hits, start=[(proof.q, proof.beta)], q=Q, beta=BETA)
    rng = np.random.default_rng(seed)
    near = [(proof.q, proof.beta), *limits.points]
    for centre in near:
        for reach in (0.0, 1e-4, 1e-2, 0.3):
            at = tuple(np.clip(np.add(centre, reach * rng.normal(size=2)), (Q[0], BETA[0]), (Q[1], BETA[1])))
            found = solve(table, *at)
            if found.hits < proof.hits:
                continue
            for name in NAMES:
                low, high = limits.ranges[name]
                value = curve_of(table, name, found, at)
                assert low - 1e-9 <= value <= (np.inf if high is None else high + 1e-9), name  # the rule's own 1e-9


@pytest.mark.parametrize(
    ("q", "beta"), [(0.26, 5.3), (1.725, 6.0)]
)  # strictly inside all five intervals of Table 10, as a check by hand shows
def test_thin_tips_of_the_range_are_found(q, beta):
    table = read_intervals("paper:vgg19")
    proof = certify(table, q=Q, beta=BETA)
    limits = determine(table, hits=5, start=[(proof.q, proof.beta)], q=Q, beta=BETA)
    assert solve(table, q, beta).hits == 5
    assert all(limits.tight.values())
    assert limits.ranges["q"][0] <= q <= limits.ranges["q"][1]
    assert limits.ranges["beta"][0] <= beta <= limits.ranges["beta"][1]


def test_a_narrower_range_determines_no_less():
    table = read_intervals("paper:vgg19")
    proof = certify(table, q=Q, beta=BETA)
    whole, part, wide = (
        determine(table, hits=5, start=[(1.0, 5.0)], q=q, beta=beta).ranges
        for q, beta in ((Q, BETA), ((0.5, 1.2), BETA), ((0, 10), (1, 12)))
    )
    assert proof.hits == 5
    for name in NAMES:
        slack = 2e-3 * (wide[name][1] - wide[name][0])  # ends are told to a thousandth of their range
        assert wide[name][0] - slack <= whole[name][0] <= part[name][0] + slack
        assert part[name][1] - slack <= whole[name][1] <= wide[name][1] + slack


@pytest.mark.parametrize("seed", range(5))
def test_ends_of_the_ranges_are_reached_by_curves_with_as_many_hits(seed):
    _, table = planted(seed, width=0.2, noise=0.05)
    proof = certify(table, q=Q, beta=BETA)
    limits = determine(table, hits=proof.hits, start=[(proof.q, proof.beta)], q=Q, beta=BETA)
    assert all(limits.tight.values())
    best = best_curves(table, hits=proof.hits, points=limits.points, q=Q, beta=BETA)
    reached = {name: getattr(best, name) for name in ("eps", "delta", "q", "beta")} | {"top": best.eps + best.delta}
    for name, (low, high) in limits.ranges.items():
        for end, at in ((low, reached[name].argmin()), (high, reached[name].argmax())):
            assert reached[name][at] == pytest.approx(end, abs=3e-3 * (high - low)), name
            numbers = {field: float(getattr(best, field)[at]) for field in ("eps", "delta", "q", "beta")}
            assert sum(table.inside(SiloCurve(**numbers, pruning_rate=0.2))) >= proof.hits


def test_ranges_are_the_same_in_another_unit():
    _, table = planted(3, width=0.2, noise=0.05)
    other = intervals_of(table.cycles, *(1e6 / 3 * rates for rates in (table.lo, table.max_lr, table.hi)))
    proof = certify(table, q=Q, beta=BETA)
    one, two = (
        determine(it, hits=proof.hits, start=[(proof.q, proof.beta)], q=Q, beta=BETA).ranges for it in (table, other)
    )
    for name in NAMES:
        unit = 1 if name in ("q", "beta") else 1e6 / 3
        assert two[name] == pytest.approx([end * unit for end in one[name]], rel=1e-9)


def test_ranges_stay_true_where_the_work_runs_out():
    _, table = planted(1, num=20, noise=0.05)
    proof = certify(table, q=Q, beta=BETA)
    full, short = (
        determine(table, hits=proof.hits, start=[(proof.q, proof.beta)], q=Q, beta=BETA, most_events=most)
        for most in (60_000_000, 200_000)
    )
    assert all(full.tight.values())
    assert not all(short.tight.values())
    for name in NAMES:
        assert short.ranges[name][0] <= full.ranges[name][0] + 1e-12  # rounding
        assert short.ranges[name][1] >= full.ranges[name][1] - 1e-12


def test_the_band_holds_the_best_curves():
    _, table = planted(2, width=0.2)
    proof = certify(table, q=Q, beta=BETA)
    limits = determine(table, hits=proof.hits, start=[(proof.q, proof.beta)], q=Q, beta=BETA)
    low, high = best_curves(table, hits=proof.hits, points=limits.points, q=Q, beta=BETA).band(table.cycles)
    rng, num = np.random.default_rng(0), 0
    for _ in range(300):
        at = rng.uniform(*Q), rng.uniform(*BETA)
        found = solve(table, *at)
        if found.hits == proof.hits:
            num += 1
            curve = SiloCurve(eps=found.eps * table.scale, delta=found.delta * table.scale, q=at[0], beta=at[1], pruning_rate=0.2)  # fmt: skip  # noqa: E501
            assert (curve(table.cycles) >= low - 2e-3 * table.scale).all()  # the band is of a grid
            assert (curve(table.cycles) <= high + 2e-3 * table.scale).all()
    assert num > 0


def test_delta_has_no_upper_bound_where_no_hit_cycle_has_risen():
    table = intervals_of([0, 1, 2], [0.03, 0.03, 0.03], [0.04, 0.04, 0.04], [0.05, 0.05, 0.05])
    limits = determine(table, hits=3, start=[(1.0, 5.0)], q=Q, beta=BETA)
    assert limits.ranges["delta"] == (0, None)
    assert limits.ranges["eps"][1] == pytest.approx(0.05, abs=1e-9)


def test_the_closest_of_several_cells_is_found_where_intervals_reach_far_above_their_optima():
    """Newton's method ends nowhere in one cell here; a loss of 0.3744 is in another, as a dense search of it shows."""
    table = intervals_of(
        [3, 4, 5, 9, 10, 11],
        [0.0297449911, 0.0267132006, 0.0076427603, 0.0908073731, 0.0145955789, 0.0134578674],
        [0.1133433655, 0.0267132006, 0.0084642936, 0.2096270681, 0.0451179762, 0.0140038780],
        [0.1133433655, 0.1487824430, 0.0212155876, 0.2096270681, 0.0451179762, 0.0200307389],
    )
    found = solve(table, 0.4166566141361838, 5.272618677269348)
    assert found.hits == 3
    assert found.loss == pytest.approx(0.3744, abs=1e-4)


def test_the_low_end_is_told_finely_where_there_is_no_high_one():
    table = intervals_of([1, 2], [0.018, 0.329], [0.018, 0.34], [0.018, 0.348])
    limits = determine(table, hits=2, start=[(1.0, 5.0)], q=Q, beta=BETA)
    reached = min(
        found.delta * table.scale
        for q in np.linspace(0, 1, 21)
        for beta in np.linspace(3, 6, 13)
        if (found := solve(table, q, beta)).hits == 2
    )
    low, high = limits.ranges["delta"]
    assert high is None
    assert 0.9 * reached < low <= reached  # solve goes through the optima; the range to the intervals' ends


@pytest.mark.slow
def test_many_intervals_without_width_are_fitted():
    """Hundreds of sets of cycles tie: all that may hold the best curve are looked at, and no more."""
    rng = np.random.default_rng(0)
    cycles = np.arange(60)
    best = (0.03 + 0.05 * shape(cycles, 1, 5, 0.2)) * np.exp(0.1 * rng.normal(size=60))
    table = intervals_of(cycles, best, best, best)
    found = fit(table)
    assert found.certified
    assert found.hits == certify(table, q=Q, beta=BETA).hits == 4
    assert max(abs(math.log(row.silo / row.max_lr)) for row in found.per_cycle if row.inside) < 1e-6


def test_constant_hits_are_the_most_that_share_one_value():
    table = intervals_of([0, 1, 2, 3], [1, 2, 3, 8], [1.5, 2.5, 3.5, 9], [2.5, 4, 5, 10])
    assert constant_hits(table) == (2, 2.25)
