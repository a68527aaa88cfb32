"""Hits, time and regret of fitting SILO: silo_fit against four-dimensional searches. `python -m benchmarks.fit`

Regret is the part of the reachable hits that a method loses; what can be reached is proven by the certificate. Every
rival sees the same tables and may place all four numbers; the ranges of eps and delta are [0, 1.2 x the largest hi].
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table
from scipy.optimize import Bounds, curve_fit, differential_evolution

from search_spaces.silo import RECOMMENDED
from silo_fit.certify import certify
from silo_fit.curve import Floats, SiloCurve, shape
from silo_fit.fit import fit
from silo_fit.tables import Intervals, paper_names, read_intervals

OUT = Path(__file__).parent / "results" / "fit.md"
Method = Callable[[Intervals, int], SiloCurve]

# What a kind of table changes in the usual one: 16 cycles of 20%, intervals 20% wide, 3% noise.
KINDS: Mapping[str, Mapping[str, Any]] = {
    "usual": {},
    "noisy": {"noise": 0.15},
    "outliers": {"outliers": 0.2},
    "flat": {"rise": 0.0, "noise": 0.1},
    "falling": {"rise": -0.7},
    "few cycles": {"num": 5},
    "sparse cycles": {"num": 8, "last": 24},
    "narrow intervals": {"width": 0.04},
    "slow pruning (10%)": {"pruning_rate": 0.1, "num": 24, "last": 23},
    "fast pruning (50%)": {"pruning_rate": 0.5, "num": 10, "last": 9},
}


def make_table(
    seed: int,
    *,
    num: int = 16,
    last: int = 15,
    rise: float | None = None,
    width: float = 0.2,
    noise: float = 0.03,
    outliers: float = 0.0,
    pruning_rate: float = 0.2,
) -> Intervals:
    """Intervals around a random SILO curve; `rise` relative to eps, random if None."""
    rng = np.random.default_rng(seed)
    cycles = np.sort(rng.choice(last + 1, num, replace=False)).astype(float)
    height = rng.uniform(0.5, 4) if rise is None else rise
    risen = shape(cycles, rng.uniform(*RECOMMENDED.q), rng.uniform(*RECOMMENDED.beta), pruning_rate)
    best = 10 ** rng.uniform(-3, -1) * (1 + height * risen) * np.exp(noise * rng.normal(size=num))
    best *= np.exp(np.where(rng.random(num) < outliers, rng.normal(size=num), 0.0))
    below = width * rng.uniform(0.3, 1, num) * rng.uniform(0, 1, num)
    above = width * rng.uniform(0.3, 1, num) * rng.uniform(0, 1, num)
    return Intervals(
        name=f"seed {seed}", cycles=cycles, lo=best * (1 - below), max_lr=best, hi=best * (1 + above),
        pruning_rate=pruning_rate,
    )  # fmt: skip


def silo_fit(table: Intervals, seed: int) -> SiloCurve:
    return fit(table, seed=seed).curve


def _score(table: Intervals, curve: SiloCurve) -> float:
    """Hits first, then closeness to all optima: the same order as silo_fit's."""
    values = np.maximum(np.asarray(curve(table.cycles)), 1e-300)
    loss = float(np.mean(np.log(values / table.max_lr) ** 2))
    return sum(table.inside(curve)) - loss / (1 + loss)


def _curve(table: Intervals, numbers: Any) -> SiloCurve:
    eps, delta, q, beta = (float(number) for number in numbers)
    return SiloCurve(eps=eps, delta=delta, q=q, beta=beta, pruning_rate=table.pruning_rate)


def _limits(table: Intervals) -> list[tuple[float, float]]:
    return [(0.0, 1.2 * table.scale)] * 2 + [RECOMMENDED.q, RECOMMENDED.beta]


def _four_dimensions(sampler: optuna.samplers.BaseSampler, table: Intervals, trials: int) -> SiloCurve:
    def score(trial: optuna.Trial) -> float:
        names = ("eps", "delta", "q", "beta")
        return _score(
            table,
            _curve(table, [trial.suggest_float(name, *ends) for name, ends in zip(names, _limits(table), strict=True)]),
        )

    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(score, n_trials=trials)
    return _curve(table, [study.best_params[name] for name in ("eps", "delta", "q", "beta")])


def scipy_curve_fit(table: Intervals, seed: int) -> SiloCurve:
    def model(cycles: Floats, eps: float, delta: float, q: float, beta: float) -> Floats:
        return eps + delta * shape(cycles, q, beta, table.pruning_rate)

    first, last = table.max_lr[0], table.max_lr[-1]
    low, high = zip(*_limits(table), strict=True)
    start = np.clip([first, max(last - first, 0), 1, 5], low, high)
    found, *_ = curve_fit(model, table.cycles, table.max_lr, p0=start, bounds=(low, high), max_nfev=2000)
    return _curve(table, found)


def scipy_evolution(table: Intervals, seed: int) -> SiloCurve:
    def loss(numbers: Floats) -> float:
        return -_score(table, _curve(table, numbers))

    low, high = zip(*_limits(table), strict=True)
    found = differential_evolution(loss, Bounds(low, high), rng=seed, popsize=12, maxiter=60, tol=0)
    return _curve(table, found.x)


def methods(trials: int) -> dict[str, Method]:
    return {
        "silo_fit": silo_fit,
        f"TPE in four dimensions, {trials} trials": lambda table, seed: _four_dimensions(
            optuna.samplers.TPESampler(seed=seed), table, trials
        ),
        f"CMA-ES in four dimensions, {trials} trials": lambda table, seed: _four_dimensions(
            optuna.samplers.CmaEsSampler(seed=seed), table, trials
        ),
        "scipy curve_fit": scipy_curve_fit,
        "scipy differential_evolution": scipy_evolution,
    }


def all_tables(num: int) -> Iterator[tuple[str, Intervals]]:
    for name in paper_names():
        yield "the paper's", read_intervals(name)
    for position in range(num):
        kind = list(KINDS)[position % len(KINDS)]
        yield kind, make_table(position, **KINDS[kind])


def compare(num: int, trials: int) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the comparison, over all tables and by kind."""
    tables = list(all_tables(num))
    most = [certify(table, q=RECOMMENDED.q, beta=RECOMMENDED.beta) for _, table in tables]
    reachable = [proof.most_hits for proof in most]
    rows, by_kind = [], {kind: [kind] for kind, _ in tables}
    for kind, row in by_kind.items():
        row.append(str(sum(hits for (own, _), hits in zip(tables, reachable, strict=True) if own == kind)))
    for name, method in methods(trials).items():
        times, hits = [], []
        for position, (_, table) in enumerate(tables):
            start = time.perf_counter()
            curve = method(table, position)
            times.append(time.perf_counter() - start)
            hits.append(sum(table.inside(curve)))
        lost = [best - found for best, found in zip(reachable, hits, strict=True)]
        regret = statistics.mean(gone / best for gone, best in zip(lost, reachable, strict=True))
        worst = max(gone / best for gone, best in zip(lost, reachable, strict=True))
        rows.append(
            [
                name, f"{sum(hits)} of {sum(reachable)}", f"{sum(gone > 0 for gone in lost)} of {len(tables)}",
                f"{regret:.1%}", f"{worst:.0%}", f"{statistics.median(times):.3g} s", f"{max(times):.3g} s",
            ]
        )  # fmt: skip
        for kind, row in by_kind.items():
            row.append(str(sum(gone for (own, _), gone in zip(tables, lost, strict=True) if own == kind)))
        print(*rows[-1], sep=" | ", flush=True)
    rows[0][0] += f" (certified: {sum(proof.certified for proof in most)} of {len(tables)})"
    return rows, list(by_kind.values())


def timings(repeats: int = 3) -> list[list[str]]:
    """Times of the certificate and of the whole fit, the median of `repeats` for each table."""
    rows = []
    for cycles, num in ((30, 40), (200, 5)):
        tables = [
            make_table(
                1000 + seed, num=cycles, last=cycles - 1, noise=(0.03, 0.15)[seed % 2], outliers=(0.0, 0.2)[seed // 2 % 2],
                width=(0.2, 0.05)[seed // 4 % 2], pruning_rate=(0.2, 0.1, 0.3)[seed % 3] * 30 / max(30, cycles),
            )
            for seed in range(num)
        ]  # fmt: skip
        certified = 0
        for label, run in (
            ("certificate", lambda table: certify(table, q=RECOMMENDED.q, beta=RECOMMENDED.beta)),
            ("whole fit", fit),
        ):
            times = []
            for table in tables:
                single = []
                for _ in range(repeats):
                    start = time.perf_counter()
                    result = run(table)
                    single.append(time.perf_counter() - start)
                certified += result.certified
                times.append(statistics.median(single))
            rows.append(
                [f"{label}, {cycles} cycles", str(num), f"{statistics.median(times):.3f} s", f"{max(times):.3f} s"]
            )
        rows[-1].append(f"{certified // 2} of {num}" if certified % 2 == 0 else "differs")
        rows[-2].append(rows[-1][-1])
        print(*rows[-2], *rows[-1], sep=" | ", flush=True)
    return rows


def device() -> str:
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} logical cores, one used"
    )


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def as_markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=200, help="generated tables, beside the paper's two")
    parser.add_argument("--trials", type=int, default=500, help="trials of the four-dimensional searches")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    times = timings()
    rows, kinds = compare(arguments.tables, arguments.trials)
    heads = (
        ["", "hits", "tables with lost hits", "mean regret", "worst", "median time", "slowest"],
        ["kind", "reachable", *(f"lost by {name.split(',')[0]}" for name in methods(arguments.trials))],
        ["", "tables", "median", "slowest", "certified"],
    )
    parts = [
        f"# Fitting SILO: {arguments.tables} generated tables and the paper's two",
        f"{device()}; Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("silo-oracle", "numpy", "scipy", "optuna", "cmaes"))
        + ". Made by `python -m benchmarks.fit`. Times are after import.",
        as_markdown(heads[0], rows),
        "Hits lost, by kind of table:",
        as_markdown(heads[1], kinds),
        "How long it takes (each table's median of three runs):",
        as_markdown(heads[2], times),
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n\n".join(parts) + "\n")
    console = Console(width=160)
    for head, body in zip(heads, (rows, kinds, times), strict=True):
        shown = Table(*head)
        for row in body:
            shown.add_row(*row)
        console.print(shown)


if __name__ == "__main__":
    main()
