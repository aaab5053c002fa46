import numpy as np

from llmpq_jax.sensitivity.evaluation import resampled_interval


def test_an_interval_contains_the_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        values = generator.normal(3.0, 1.0, 40)
        low, high = resampled_interval(lambda mean: mean, values, seed=seed)
        held += low <= 3.0 <= high
    # 95 % of 200 is 190; a binomial's five standard deviations are 15.
    assert 170 <= held <= 200


def test_differences_are_taken_on_the_same_windows():
    values = np.random.default_rng(1).normal(0.0, 100.0, 30)
    low, high = resampled_interval(lambda a, b: a - b, values + 0.5, values)
    assert low == high == 0.5 or abs(low - 0.5) + abs(high - 0.5) < 1e-9


def test_one_window_has_an_interval_of_no_width():
    assert resampled_interval(lambda mean: mean, np.array([3.0])) == (3.0, 3.0)
