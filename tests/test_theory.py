"""The bound of Theorem 1 and the rate of Theorem 2: limits, shape, and the stated setting drawn at random."""

import math

import numpy as np
import pytest

from oracle.analysis.theory import DomainError, activation_bound, energy_kept, learning_rate_bound
from oracle.errors import Error

SETTING = {"sigma_x": 1.3, "sigma_w": 0.2, "p": 0.2, "d": 300}


def test_an_unpruned_layer_has_all_of_its_energy():
    assert energy_kept(0.2, 0) == 1
    assert energy_kept(0, 7) == 1
    assert activation_bound(0, **SETTING) == pytest.approx(0.2**2 * (1 + 300 * 1.3**2), rel=1e-15)


def test_a_layer_pruned_without_end_keeps_its_bias_alone():
    assert energy_kept(1, 1) == 0
    assert energy_kept(0.2, math.inf) == 0
    far = activation_bound([1e3, 1e4, 1e9], **SETTING)
    # 0.8**1000 = 1e-97 of the weights hold 450 times their share of the squares
    assert far.tolist() == pytest.approx([0.04] * 3, rel=1e-12)


def test_the_printed_formula_is_computed_where_it_can_be():
    from scipy.special import erfinv

    kept = 0.8 ** np.arange(20)
    t = erfinv(1 - kept)
    printed = 0.2**2 + 300 * 1.3**2 * 0.2**2 * (kept + math.sqrt(4 / math.pi) * t * np.exp(-(t**2)))
    assert activation_bound(np.arange(20), **SETTING) == pytest.approx(printed, rel=1e-12)  # 1 - u rounds at 1e-16


def test_the_bound_falls_and_the_rate_rises_with_every_round():
    rounds = np.linspace(0, 200, 2001)
    assert (np.diff(energy_kept(0.2, rounds)) < 0).all()
    assert (np.diff(activation_bound(rounds, **SETTING)) <= 0).all()
    rates = learning_rate_bound(rounds, **SETTING)
    assert (np.diff(rates) >= 0).all()
    assert (np.diff(rates[:500]) > 0).all()


@pytest.mark.parametrize("d", [10, 300, 3072])
@pytest.mark.parametrize("p", [0.1, 0.2, 0.5])
def test_the_rate_is_s_shaped_with_one_inflection(d, p):
    last = math.log(1e-9) / math.log(1 - p)  # one weight in 10^9 left
    bends = np.diff(learning_rate_bound(np.linspace(0, last, 4001), **(SETTING | {"d": d, "p": p})), n=2)
    bends = np.sign(bends[np.abs(bends) > 1e-12])  # the flat ends are rounding
    assert bends[0] == 1
    assert bends[-1] == -1
    assert np.count_nonzero(np.diff(bends)) == 1


def test_the_rate_keeps_the_gradient_norm_fixed():
    rounds = np.arange(30)
    rates = learning_rate_bound(rounds, **SETTING, gradient_norm=3e-6, gamma=0.7)
    assert 0.7 * rates**2 * activation_bound(rounds, **SETTING) == pytest.approx(np.full(30, 3e-6), rel=1e-12)
    assert learning_rate_bound(1e9, **SETTING, gradient_norm=3e-6, gamma=0.7) == pytest.approx(
        math.sqrt(3e-6 / 0.7) / 0.2, rel=1e-12
    )


def test_arguments_broadcast():
    grid = activation_bound(np.arange(5)[:, None], sigma_x=1, sigma_w=[0.1, 0.2, 0.3], p=0.2, d=7)
    assert grid.shape == (5, 3)
    assert grid[4, 2] == activation_bound(4, sigma_x=1, sigma_w=0.3, p=0.2, d=7)
    assert activation_bound(2, **SETTING).shape == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("p", -0.1),
        ("p", 1.1),
        ("p", math.nan),
        ("sigma_x", 0),
        ("sigma_w", -1),
        ("sigma_w", math.inf),
        ("d", -1),
        ("k", -1),
        ("k", [0, math.nan]),
        ("gamma", 0),
        ("gradient_norm", -2),
    ],
)
def test_what_lies_outside_the_domain_is_refused_by_name(name, value):
    with pytest.raises(DomainError, match=f"^{name}: found ") as caught:
        learning_rate_bound(**({"k": 1} | SETTING | {name: value}))
    assert isinstance(caught.value, Error)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("k", [0, 3, 8])
@pytest.mark.slow
def test_theorem_1_holds_for_a_wide_layer_drawn_at_random(k):
    """20,000 neurons in place of infinitely many; 2,000 inputs. The bound's factor of 2 to spare shows."""
    rng, (neurons, inputs, d) = np.random.default_rng(k), (20_000, 2_000, 40)
    sigma_x, sigma_w, p = 1.3, 0.2, 0.2
    weights, biases = rng.normal(0, sigma_w, (neurons, d)), rng.normal(0, sigma_w, neurons)
    for _ in range(k):  # the smallest of what is left
        left = np.abs(weights[weights != 0])
        weights[np.abs(weights) < np.partition(left, int(p * left.size))[int(p * left.size)]] = 0
    activations = np.maximum(rng.normal(0, sigma_x, (inputs, d)) @ weights.T + biases, 0)
    measured = (activations**2).mean()
    bound = activation_bound(k, sigma_x=sigma_x, sigma_w=sigma_w, p=p, d=d)
    assert 4 * measured >= bound
    # |X|^2 of 2,000 inputs of 40 numbers: sqrt(2 / 80,000) = 0.5%; the neurons add less
    assert 2 * measured == pytest.approx(bound, rel=0.02)
