"""How sure an Oracle is, judged against truths of many seeds: `python -m benchmarks.confidence [make NAME | searches]`.

Without arguments the kept truths are judged. `make NAME` trains one anew; `searches` trains whole searches, choices feeding
back into what is pruned, and keeps their optima and intervals.
"""

import argparse
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import confidence_searches
from benchmarks.confidence_truths import PROBLEMS, Truth, kept_names, make
from benchmarks.confidence_ways import WAYS, Answer, Draw
from benchmarks.tree import machine

RESULTS = Path(__file__).parent / "results" / "confidence.md"
RUNS = Path("runs") / "truths"
PROCESSES = 2
DRAWS = 2  # from each half of a pool: every one of a half is compared with every one of the other
MOST_SEEDS = max(seeds for seeds, _ in WAYS.values())
BINS = (0.0, 0.05, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 1.01)  # of p_within as it is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Of the strategy adaptive: at most so many trainings a cycle, and errors of its ends; at least this agreement."""

    trainings: float
    agree: float
    lo_rms: float  # steps: a prototype's, and 0.3 more
    hi_rms: float


# By whether the problem is noisy, and by seeds.
GOALS: Mapping[tuple[bool, int], Goal] = {
    (False, 3): Goal(trainings=30, agree=0.95, lo_rms=2.1, hi_rms=1.0),
    (False, 5): Goal(trainings=48, agree=0.97, lo_rms=1.4, hi_rms=1.11),
    (True, 3): Goal(trainings=30, agree=0.82, lo_rms=1.3, hi_rms=1.8),
    (True, 5): Goal(trainings=48, agree=0.92, lo_rms=1.19, hi_rms=1.6),
}
HELD = 0.93  # least share of cycles at which what is said with 95% holds

# What is judged at once: by way, by half and draw, one answer a kept cycle.
Repetition = Mapping[str, Sequence[Sequence[Sequence[Answer]]]]


def repetition(name: str, number: int) -> Repetition:
    """Oracles of seeds from two halves of a truth's pool, drawn with replacement: so the pool's mean is their truth."""
    truth = Truth.read(name)
    random = np.random.default_rng(number)
    halves = np.array_split(random.permutation(truth.correct.shape[2]), 2)
    draws = [
        [
            Draw(truth=truth, picked=tuple(random.choice(half, MOST_SEEDS).tolist()), key=int(random.integers(2**31)))
            for _ in range(DRAWS)
        ]
        for half in halves
    ]
    return {
        way: [[list(run(draw.first(seeds))) for draw in half] for half in draws] for way, (seeds, run) in WAYS.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """All answers of one way on one problem."""

    truth: Truth
    repetitions: Sequence[Sequence[Sequence[Sequence[Answer]]]]

    def answers(self) -> Iterator[tuple[int, Answer]]:
        """With the index of the kept cycle."""
        for halves in self.repetitions:
            for half in halves:
                for answers in half:
                    yield from enumerate(answers)

    def mean(self, value: Callable[[Answer], float]) -> float:
        return statistics.fmean(value(answer) for _, answer in self.answers())

    def share(self, holds: Callable[[Answer, int, int, int], bool | None]) -> float | None:
        """Of answers, by truth's lo, hi and index of the cycle; those that None is said of left out."""
        found = [holds(answer, *self.truth.intervals[index], index) for index, answer in self.answers()]
        known = [value for value in found if value is not None]
        return statistics.fmean(known) if known else None

    def agreement(self, agree: Callable[[Answer, Answer], bool]) -> tuple[float, float]:
        """Of draws from different halves at a cycle; and its standard error, over repetitions."""
        means = [
            statistics.fmean(
                agree(one, other)
                for first, second in product(halves[0], halves[1])
                for one, other in zip(first, second, strict=True)
            )
            for halves in self.repetitions
        ]
        error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else float("nan")
        return statistics.fmean(means), error

    def rms(self, steps: Callable[[Answer, int, int], int]) -> float:
        found = [steps(answer, *self.truth.intervals[index]) for index, answer in self.answers()]
        return math.sqrt(statistics.fmean(step**2 for step in found))

    def holds(self) -> Mapping[str, float | None]:
        """Shares of answers whose ends are as they say; of the sure ones, among those that say any."""
        return {
            "possible lo": self.share(lambda answer, lo, hi, index: answer.possible and answer.possible[0] <= lo),
            "possible hi": self.share(lambda answer, lo, hi, index: answer.possible and answer.possible[1] >= hi),
            "sure lo": self.share(lambda answer, lo, hi, index: answer.sure and answer.sure[0] >= lo),
            "sure hi": self.share(lambda answer, lo, hi, index: answer.sure and answer.sure[1] <= hi),
        }

    def said_surely(self) -> float | None:
        """The share truly inside of candidates that are said to be with 0.95 and more."""
        bins = [(true, count) for said, true, count in self.calibration() if said >= 0.95]
        count = sum(count for _, count in bins)
        return sum(true * count for true, count in bins) / count if count else None

    def calibration(self) -> Iterator[tuple[float, float, int]]:
        """For each bin of p_within: said, true, how many candidates; zeros where there are none."""
        said, true = [], []
        for index, answer in self.answers():
            lo, hi = self.truth.intervals[index]
            said += list(answer.p_within)
            true += [lo <= candidate <= hi for candidate in range(len(answer.p_within))]
        values, inside = np.array(said), np.array(true)
        for low, high in pairwise(BINS):
            own = (values >= low) & (values < high)
            yield (float(values[own].mean()), float(inside[own].mean()), int(own.sum())) if own.any() else (0.0, 0.0, 0)


def agree(one: Answer, other: Answer) -> bool:
    """Whether each optimum is within the other's interval."""
    return other.lo <= one.optimum <= other.hi and one.lo <= other.optimum <= one.hi


def width(answer: Answer) -> int:
    """Steps that the ends may lie anywhere in; nothing sure: all that is possible."""
    assert answer.possible is not None
    first, last = answer.possible
    return last - first if answer.sure is None else (last - answer.sure[1]) + (answer.sure[0] - first)


HEAD = (
    *("way", "trainings a cycle", "agree", "same optimum", "optimum within", "lo rms", "hi rms", "lo..hi, steps"),
    *("possible holds lo / hi", "sure holds lo / hi", "width", "nothing sure", "CPU s a cycle"),
)


def row(way: str, judged: Judged) -> list[str]:
    """Of the table of a problem."""
    found, error = judged.agreement(agree)
    same, _ = judged.agreement(lambda one, other: one.optimum == other.optimum)
    within = judged.share(lambda answer, lo, hi, index: judged.truth.is_within(index, answer.optimum))
    cells = [
        *(way, f"{judged.mean(lambda answer: answer.trainings):.1f}", f"{found:.3f} ± {error:.3f}", f"{same:.2f}"),
        f"{within:.3f}",
        f"{judged.rms(lambda answer, lo, hi: answer.lo - lo):.2f}",
        f"{judged.rms(lambda answer, lo, hi: answer.hi - hi):.2f}",
        f"{judged.mean(lambda answer: answer.hi - answer.lo):.1f}",
    ]
    seconds = f"{judged.mean(lambda answer: answer.seconds):.3f}"
    if not next(judged.answers())[1].p_within:
        return [*cells, "", "", "", "", seconds]
    held = ["" if share is None else f"{share:.3f}" for share in judged.holds().values()]
    nothing = judged.mean(lambda answer: answer.sure is None)
    cells += [f"{held[0]} / {held[1]}", f"{held[2]} / {held[3]}", f"{judged.mean(width):.1f}", f"{nothing:.2f}"]
    return [*cells, seconds]


def judge(name: str, repetitions: int, pool: ProcessPoolExecutor) -> Mapping[str, Judged]:
    """All ways on a problem."""
    truth = Truth.read(name)
    found = list(pool.map(repetition, [name] * repetitions, range(repetitions)))
    return {way: Judged(truth=truth, repetitions=[each[way] for each in found]) for way in WAYS}


def section(truth: Truth, judged: Mapping[str, Judged]) -> Iterator[str]:
    """Of a problem."""
    yield from about(truth)
    yield f"{len(judged[next(iter(judged))].repetitions)} repetitions."
    yield table(HEAD, [row(way, each) for way, each in judged.items()])
    sayers = {way: each for way, each in judged.items() if next(each.answers())[1].p_within}
    bins = [f"{low:g} to {min(high, 1):g}" for low, high in pairwise(BINS)]
    rows = [
        [way, *(f"{said:.3f}: {true:.3f} ({count:,})" if count else "" for said, true, count in each.calibration())]
        for way, each in sayers.items()
    ]
    yield "p_within: said (the bin's mean): true (how many candidates)."
    yield table(["way", *bins], rows)


GOALS_HEAD = (
    *("problem", "seeds", "trainings", "agree", "possible holds lo / hi", "sure holds lo / hi"),
    *("said 0.95 or more: true", "lo rms", "hi rms"),
)


def goal_rows(name: str, judged: Mapping[str, Judged]) -> Iterator[list[str]]:
    """Of the table of goals: what was found, what was asked; bold where it is missed."""
    for seeds in (3, 5):
        own, goal = judged[f"adaptive, {seeds} seeds"], GOALS[PROBLEMS[name].noisy, seeds]
        held = own.holds()
        agreed, _ = own.agreement(agree)
        yield [
            *(name, str(seeds), _against(own.mean(lambda answer: answer.trainings), goal.trainings, most=True)),
            _against(agreed, goal.agree),
            f"{_against(held['possible lo'], HELD)} / {_against(held['possible hi'], HELD)}",
            f"{_against(held['sure lo'], HELD)} / {_against(held['sure hi'], HELD)}",
            _against(own.said_surely(), HELD),
            _against(own.rms(lambda answer, lo, hi: answer.lo - lo), goal.lo_rms, most=True),
            _against(own.rms(lambda answer, lo, hi: answer.hi - hi), goal.hi_rms, most=True),
        ]


def _against(found: float | None, asked: float, *, most: bool = False) -> str:
    if found is None:
        return "never said"
    met, sign = (found <= asked, "≤") if most else (found >= asked, "≥")
    cell = f"{found:.3g} ({sign} {asked:g})"
    return cell if met else f"**{cell}**"


def about(truth: Truth) -> Iterator[str]:
    """What a problem is, and its intervals."""
    experiment, problem = truth.experiment, PROBLEMS[truth.name]
    fresh = ", **fresh: no constant was chosen on it**" if problem.fresh else ""
    yield f"## {truth.name}{fresh}"
    spread = np.where(np.isfinite(truth.accuracies), truth.accuracies, np.nan)
    best = [int(np.argmax(cycle.mean(1))) for cycle in truth.accuracies]
    levels = [float(spread[index, candidate].std(ddof=1)) for index, candidate in enumerate(best)]
    tops = [float(truth.accuracies[index, candidate].mean()) for index, candidate in enumerate(best)]
    intervals = ", ".join(f"{cycle}: {lo}-{hi}" for cycle, (lo, hi) in zip(truth.cycles, truth.intervals, strict=True))
    yield (
        f"{experiment.network.name}, {experiment.optimizer.name}, {experiment.schedule.shape} schedule, "
        f"{experiment.pruning.method} at {experiment.pruning.rate:g}, {truth.num_validation} validation images; "
        f"{len(truth.grid)} candidates from {truth.grid[0]:g} to {truth.grid[-1]:g}, a pool of {truth.correct.shape[2]} "
        "seeds. "
        f"Best mean accuracy {min(tops):.1f} to {max(tops):.1f}%, standard deviation of seeds there "
        f"{min(levels):.2f} to {max(levels):.2f} points. True intervals, cycle: candidates {intervals}."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


INTRODUCTION = (
    "Ways to find optimum and interval, judged on truths of many seeds along one fixed chain of peaks. Seeds of two "
    "Oracles come from different halves of a pool, drawn with replacement, so that the pool's mean is the truth. *Agree*: "
    "each optimum lies within the other's lo..hi (± standard error, over repetitions); *optimum within*: its true mean is "
    "within half a point of the best; *rms* of lo and hi, *width* (of the ranges in which the ends may lie) in steps of "
    "the grid; *holds*: shares of cycles whose true ends lie within *possible* and beyond *sure*. Rivals train about as "
    "much as adaptive, choose by their own rule, and take as interval the neighbours within half a point of the optimum "
    "on the seeds that both trained."
)


def main() -> None:
    """Judge, or make what is judged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=RUNS, help="where make and searches train, and go on")
    parser.add_argument("--data", type=Path, help="CIFAR-10's Parquet files, for `make`")
    parser.add_argument("--repetitions", type=int, default=80, help="of each problem")
    parser.add_argument("--only", choices=sorted(PROBLEMS), help="print one problem and keep no file")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("make").add_argument("name", choices=sorted(PROBLEMS))
    commands.add_parser("searches")
    arguments = parser.parse_args()
    if arguments.command == "make":
        print(make(arguments.name, arguments.runs, arguments.data))
    elif arguments.command == "searches":
        print(confidence_searches.make(arguments.runs))
    else:
        judge_all(arguments.repetitions, arguments.only)


def judge_all(repetitions: int, only: str | None) -> None:
    """The kept truths and searches, printed and written."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that are started here
    head = ["# How sure an Oracle is", f"{machine()}.", INTRODUCTION]
    sections: list[str] = []
    goals: list[list[str]] = []
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for name in kept_names() if only is None else [only]:
            judged = judge(name, repetitions, pool)
            goals += goal_rows(name, judged)
            for part in section(Truth.read(name), judged):
                print(part, flush=True)
                sections.append(part)
    summary = ["## Goals", "What was asked in brackets; missed in bold.", table(GOALS_HEAD, goals)]
    print(*summary, sep="\n\n")
    if only is None:
        RESULTS.write_text("\n\n".join([*head, *summary, *sections, *confidence_searches.section()]) + "\n")


if __name__ == "__main__":
    main()
