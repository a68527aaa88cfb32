"""Which peak learning rates are tried at a cycle, and how a grid grows past its edge."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Learning rates beyond these train nothing, or overflow float32 at the first step: Adam divides by 1 - beta, which may be
# 1e-16.
LEAST_RATE = 1e-30
MOST_RATE = 1e20
MOST_POINTS = 10_000
Rate = Annotated[float, Field(ge=LEAST_RATE, le=MOST_RATE)]


class MaxLrGrid(BaseModel):
    """The candidates for `max_lr` that every cycle of a search starts from.

    `linear` and `log` lay `points` values over [low, high], ends included; `explicit` takes `values` as they stand.
    With `extend`, a cycle whose optimum or interval ends on an edge grows past that edge by the grid's own spacing, at
    most `max_extra` candidates a cycle; a linear grid stops growing downward above 0, and any at 1e-30 and 1e20.

    >>> MaxLrGrid(low=0.01, high=0.03, points=3).candidates()
    (0.01, 0.02, 0.03)
    >>> MaxLrGrid(low=0.01, high=1, points=3, spacing="log").candidates()
    (0.01, 0.1, 1.0)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    spacing: Literal["linear", "log", "explicit"] = "linear"
    low: Rate = 1e-4  # learning rate; not used by `explicit`
    high: Rate = 1e-1
    points: int = Field(default=51, ge=1, le=MOST_POINTS)
    # `explicit` only; a list will do
    values: tuple[Rate, ...] | None = Field(default=None, strict=False, max_length=MOST_POINTS)
    extend: bool = False
    max_extra: int = Field(default=24, ge=1, le=MOST_POINTS)  # candidates that `extend` may add at one cycle

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.spacing == "explicit") != (self.values is not None):
            raise ValueError("values and spacing: explicit go together; linear and log take low, high and points")
        if self.values is not None:
            if not self.values or any(a >= b for a, b in zip(self.values, self.values[1:], strict=False)):
                raise ValueError("values must be at least one learning rate, each larger than the one before it")
            if self.model_fields_set & {"low", "high", "points"}:
                raise ValueError("an explicit grid takes values alone: leave low, high and points out")
        elif self.points == 1 and self.low != self.high:
            raise ValueError(
                f"one point cannot cover [{self.low:g}, {self.high:g}]: set low and high to the same value"
            )
        elif self.points > 1 and self.low >= self.high:
            raise ValueError(f"low must be below high, found low {self.low:g} and high {self.high:g}")
        elif len(set(self.candidates())) != self.points:
            raise ValueError(
                f"{self.points} points over [{self.low!r}, {self.high!r}] are too close to differ in 10 digits"
            )
        if self.extend and len(self.candidates()) < 2:
            raise ValueError("extend needs at least two candidates: one has no spacing to grow by")
        return self

    def candidates(self) -> tuple[float, ...]:
        """The grid before any growth: ascending learning rates."""
        if self.values is not None:
            return self.values
        return tuple(self._at(index) for index in range(self.points))

    def extended(self, candidates: Sequence[float], *, low: bool, high: bool) -> tuple[float, ...]:
        """`candidates` grown past the edges named, or unchanged where the bound is reached.

        One call adds an eighth of the grid to a side, so that a cycle on a cluster does not grow one training at a time.

        >>> MaxLrGrid(low=0.01, high=0.03, points=3, extend=True).extended((0.01, 0.02, 0.03), low=True, high=True)
        (0.01, 0.02, 0.03, 0.04)
        """
        base = self.candidates()
        below = sum(rate < base[0] for rate in candidates)
        above = sum(rate > base[-1] for rate in candidates)
        grown = set(candidates)
        for step in range(1, self.stride + 1):
            for asked, reached, upwards in ((high, above, True), (low, below, False)):
                rate = self.beyond(reached + step, high=upwards)
                if asked and rate is not None and len(grown) < len(base) + self.max_extra:
                    grown.add(rate)
        return tuple(sorted(grown))

    @property
    def stride(self) -> int:
        """By how many steps a side grows at once."""
        return max(1, len(self.candidates()) // 8)

    def beyond(self, steps: int, *, high: bool) -> float | None:
        """The rate so many steps beyond the last candidate, or below the first; None where it cannot be trained at.

        >>> MaxLrGrid(low=0.01, high=0.03, points=3, extend=True).beyond(2, high=True)
        0.05
        """
        rate = self._at(len(self.candidates()) - 1 + steps if high else -steps)
        return rate if LEAST_RATE <= rate <= MOST_RATE else None

    def _at(self, index: int) -> float:
        """The grid's point `index`; below 0 and past the last by the spacing of the nearest two points.

        Ten significant digits, so that a rate reads the same in YAML, on screen and in Parquet; the ends as they were
        given.
        """
        if self.values is not None:
            last = len(self.values) - 1
            if index < 0:
                rate = self.values[0] + index * (self.values[1] - self.values[0])
                if rate < 1e-9 * self.values[1]:  # 0 up to rounding
                    return 0.0
            else:
                rate = self.values[last] + (index - last) * (self.values[last] - self.values[last - 1])
        elif index == 0:
            return self.low
        elif index == self.points - 1:
            return self.high
        elif self.spacing == "log":
            try:
                rate = self.low * (self.high / self.low) ** (index / (self.points - 1))
            except OverflowError:  # far beyond an edge
                return math.inf
        else:
            rate = self.low + (self.high - self.low) * index / (self.points - 1)
            if rate < 1e-9 * self.high:  # 0 up to rounding
                return 0.0
        return float(f"{rate:.10g}")
