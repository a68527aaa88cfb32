"""AutoLRS: the learning rate of each stage of a training, chosen on the way (Jin et al. 2021, arXiv 2105.10762).

At the start of a stage, rates are tried from where the training stands, a few steps each; what the loss would be at the
end of the stage is forecast by an exponential, a Gaussian process over log rate says what to try next, and the stage is
trained at the best. Half of all steps are spent on trying.

The paper's body is not at hand. From its abstract: the stages, the Bayesian search, the exponential. From descriptions of
it: ten rates a stage, a tenth of the stage's steps each, stages that double up to eight times the first, smoothing by a
spline, a lower confidence bound, the validation loss, read sixteen times, from the second stage on. Readings of ours: the
range (a thousandth of the peak to the peak), the first three rates (evenly spaced in log), the confidence bound's width,
the process's kernel, the validation images (the first thousand), and stages that scale with a short training.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from oracle.data.images import Batch, Images
from oracle.experiment import Experiment
from oracle.training.loop import Trainer

TRIED = 10  # rates a stage
FIRST_TRIED = 3  # of them, evenly spaced in log
TRIAL_PART = 10  # a trial takes this part of a stage's steps
READINGS = 16  # of the validation loss in a trial
MOST_DOUBLINGS = 3
FIRST_STAGE = 1000  # steps, where the training is long enough
STAGES_OF_SHORT = 16  # of the first stage's length that a shorter training has
LEAST_TRIAL = 5  # steps: fewer make no exponential
LOWEST = 1e-3  # of the peak
POINTS = 200  # of log rate that the process is asked at
WIDTH = 1.0  # standard deviations below the mean
LEAST_FOR_SPLINE = 5  # losses


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a training; lengths in steps."""

    start: int
    length: int
    trial: int  # of each rate that is tried; 0: nothing is, and the last stage's rate stays
    validates: bool  # whether a trial is judged by validation loss


def stages(num_steps: int) -> Iterator[Stage]:
    """The stages of a training of so many steps.

    >>> [(stage.length, stage.trial) for stage in stages(16_000)]
    [(1000, 100), (2000, 200), (4000, 400), (8000, 800), (1000, 100)]
    """
    length = max(LEAST_TRIAL * TRIAL_PART, min(FIRST_STAGE, num_steps // STAGES_OF_SHORT))
    start, number = 0, 0
    while start < num_steps:
        own = min(length, num_steps - start)
        trial = own // TRIAL_PART
        if trial < LEAST_TRIAL:
            trial = 0 if number else min(LEAST_TRIAL, own)
        yield Stage(start, own, trial, validates=number > 0)
        start, number = start + own, number + 1
        if number <= MOST_DOUBLINGS:
            length *= 2


def extra_steps(num_steps: int) -> int:
    """Steps that are spent on trying, beside those of the training itself.

    >>> extra_steps(16_000)
    16000
    """
    return sum(TRIED * stage.trial for stage in stages(num_steps))


class AutoLrsTrainer:
    """One candidate whose rates are chosen on the way; what it is told to train at is the largest. See `loop.Trainer`."""

    num_candidates = 1

    def __init__(self, inner: Trainer, experiment: Experiment, images: Images, *, key: tuple[int, int]) -> None:
        """`inner` takes the steps. `key`: (seed, cycle) of the batches that rates are tried on: those that come next."""
        assert inner.num_candidates == 1
        self._inner, self._images, self._key = inner, images, key
        self._batch_size = experiment.training.batch_size
        self._steps_per_epoch = images.num_train // self._batch_size
        self._stages = {stage.start: stage for stage in stages(experiment.training.epochs * self._steps_per_epoch)}
        self._step, self._rate = 0, math.nan

    def step(self, batch: Batch, rates: Float[Tensor, "C"]) -> Float[Tensor, "C"]:
        """See `Trainer.step`."""
        stage, highest = self._stages.get(self._step), float(rates[0])
        if stage is not None and stage.trial:
            self._rate = self._best_rate(stage, highest, rates.device) if highest > 0 else 0.0
        self._step += 1
        return self._inner.step(batch, torch.full_like(rates, self._rate))

    def score(self, batch: Batch) -> tuple[Bool[Tensor, "C B"], Float[Tensor, "C"]]:
        """See `Trainer.score`."""
        return self._inner.score(batch)

    def states(self) -> dict[str, Float[Tensor, "C ..."]]:
        """See `Trainer.states`."""
        return self._inner.states()

    def state(self) -> dict[str, Tensor]:
        """See `Trainer.state`."""
        return {**self._inner.state(), "autolrs": torch.tensor([self._step, self._rate], dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Trainer.restore`."""
        step, self._rate = state["autolrs"].tolist()
        self._step = int(step)
        self._inner.restore({name: value for name, value in state.items() if name != "autolrs"})

    def _best_rate(self, stage: Stage, highest: float, device: torch.device) -> float:
        """Try rates from here, and come back."""
        here = {name: value.clone() for name, value in self._inner.state().items()}
        logs = np.linspace(math.log(LOWEST * highest), math.log(highest), POINTS)
        tried: list[float] = []
        forecasts: list[float] = []
        for number in range(TRIED):
            if number < FIRST_TRIED:
                at = logs[0] + (2 * number + 1) / (2 * FIRST_TRIED) * (logs[-1] - logs[0])
            else:
                at = logs[_next(logs, np.array(tried), np.array(forecasts))]
            losses = self._losses(stage, math.exp(at), device)
            tried.append(float(at))
            forecasts.append(forecast(losses, stage.length * len(losses) / stage.trial))
            self._inner.restore({name: value.clone() for name, value in here.items()})
        best = min(range(TRIED), key=lambda index: (forecasts[index], tried[index]))
        return math.exp(tried[best])

    def _losses(self, stage: Stage, rate: float, device: torch.device) -> list[float]:
        """The loss on the way through a trial: of its batches, or of validation images."""
        rates = torch.full((1,), rate, dtype=torch.float64, device=device)
        every = max(1, stage.trial // READINGS) if stage.validates else 1
        losses = []
        for number, batch in enumerate(self._coming(stage.start, stage.trial), 1):
            loss = float(self._inner.step(batch, rates)[0])
            if number % every == 0:
                losses.append(self._validation_loss() if stage.validates else loss)
        return losses

    def _coming(self, start: int, num: int) -> Iterator[Batch]:
        """The batches of the training's next steps."""
        epoch, skipped = divmod(start, self._steps_per_epoch)
        while num > 0:
            for index, batch in enumerate(self._images.epoch((*self._key, epoch), self._batch_size)):
                if index >= skipped and num > 0:
                    num -= 1
                    yield batch
            epoch, skipped = epoch + 1, 0

    def _validation_loss(self) -> float:
        batch = next(iter(self._images.validation()))
        return float(self._inner.score(batch)[1][0]) / len(batch[1])


def forecast(losses: list[float], at: float) -> float:
    """The loss at `at` (in readings, the first is 1): a e^(b t) + c through what a smoothing spline leaves of the losses.

    b is the best of those that end between a tenth of the readings and all of them, by least squares; never below 0, and
    infinite where a loss is not finite.
    """
    from scipy.interpolate import make_smoothing_spline

    values = np.array(losses)
    if not np.isfinite(values).all():
        return math.inf
    t = np.arange(1, len(values) + 1, dtype=float)
    if len(values) >= LEAST_FOR_SPLINE:
        values = make_smoothing_spline(t, values)(t)
    best, told = math.inf, float(values[-1])
    for span in np.geomspace(len(t) / 10, len(t), 20):
        falling = np.stack([np.exp(-t / span), np.ones_like(t)], axis=1)
        (a, c), *_ = np.linalg.lstsq(falling, values, rcond=None)
        error = float(((falling @ [a, c] - values) ** 2).sum())
        if error < best:
            best, told = error, max(0.0, float(a * math.exp(-at / span) + c))
    return told


def _next(logs: Float[ndarray, "P"], tried: Float[ndarray, "R"], forecasts: Float[ndarray, "R"]) -> int:
    """Which log rate to try next: where a Gaussian process may be lowest."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    finite = forecasts[np.isfinite(forecasts)]
    worst = float(finite.max()) if len(finite) else 0.0
    values = np.where(np.isfinite(forecasts), forecasts, worst + (np.ptp(finite) if len(finite) else 0.0) + 1e-3)
    unit = (logs[-1] - logs[0]) or 1.0
    process = GaussianProcessRegressor(Matern(nu=2.5) + WhiteKernel(1e-2), normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter at its bound is an answer, too
        process.fit(((tried - logs[0]) / unit)[:, None], values)
    mean, std = process.predict(((logs - logs[0]) / unit)[:, None], return_std=True)
    return int(np.argmin(mean - WIDTH * std))
