"""Train, choose, prune, rewind, and again: the chain of cycles, whoever trains a cycle's packs.

Every step can be repeated: a cycle's row follows from its trials, its parents from the winners before it. A chain that
goes on walks through the finished cycles, finds all its rows, and trains what is missing.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from oracle.analysis.diagnostics import diagnose, diagnostics_of_winner, write_diagnostics
from oracle.data import load_images, read_whole
from oracle.data.images import Images
from oracle.data.sources import RawImages
from oracle.errors import ClusterError, ExperimentError, FolderError
from oracle.events import Watch
from oracle.execution.local import LocalExecutor
from oracle.execution.worker import Job, Pack, Settings, missing, versions
from oracle.experiment import Experiment, experiment_from_yaml
from oracle.pruning.masks import emptied_layers
from oracle.runs.networks import (
    read_final,
    read_parent,
    read_winner,
    winners_are_whole,
    write_parent,
    write_winner,
)
from oracle.runs.tables import (
    cycle_folder,
    done_trials,
    lineage,
    merge_trials,
    oracle_rows,
    set_aside,
    trials_of_cycle,
    write_oracle,
)
from oracle.search.intervals import find_interval
from oracle.search.preflight import (
    check_choice,
    check_experiment,
    check_flags,
    check_folder,
    check_settings,
    pinned,
    read_settings,
)
from oracle.storage import Folder
from oracle.training.parents import Parent, Winner, first_parent, fresh_network, next_parent
from oracle.training.train import Backend, choose_backend, default_device

GPU_PACK = 16  # candidates a pack at most: more are thought to saturate a GPU, and memory grows with each


class Executor(Protocol):
    """Whoever trains packs: this process, or a Ray cluster."""

    slots: int
    device: str  # that packs train on: "cpu" or "cuda"

    def prove_folder(self, folder: Folder) -> None:
        """Let every machine that may train show that it can write into the folder."""

    def run(self, job: Job, packs: Sequence[Pack], raw: RawImages | None, watch: Watch) -> None:
        """Train what the packs lack."""

    def close(self) -> None:
        """Give back what was taken."""


def run_oracle(
    experiment: Experiment,
    out: str | Path,
    *,
    executor: Literal["ray", "local"] = "ray",
    address: str | None = None,
    slots: int | None = None,
    backend: Literal["auto", "plain", "pack"] = "auto",
    pack_size: int | None = None,
    carry: Literal["keep", "retrain"] = "keep",
    checkpoint_seconds: float = 60.0,
    peaks: Sequence[float] | None = None,
    watch: Watch | None = None,
) -> pa.Table:
    """Search max_lr at every cycle; returns oracle.parquet as a table. Run again after any stop, it goes on.

    `out`: a folder, local or s3://, gs://. `address`: of a Ray cluster; None for one of this process's own. `slots`: packs
    at a time. `carry`: `keep` writes every trial's final weights until its cycle is chosen, `retrain` none, and trains
    the winners once more. `peaks`: the experiment's own replaced by these, one max_lr a cycle: nothing is searched.

    Raises an `oracle.errors.Error`: FolderError for a folder of another experiment or a full disk, DataError, NetworkError
    and ExperimentError before anything is trained, DivergedError, TrialError or ClusterError while it runs.
    """
    check_flags(executor=executor, address=address, backend=backend, slots=slots, pack_size=pack_size)
    check_choice("carry", carry, ("keep", "retrain"))
    if not (isinstance(checkpoint_seconds, int | float) and checkpoint_seconds >= 0):
        raise ExperimentError(f"checkpoint_seconds: expected a number from 0 on, found {checkpoint_seconds!r}")
    watch = watch or Watch()
    if peaks is not None:
        experiment = _with_peaks(experiment, peaks)
    experiment = pinned(experiment)
    raw = read_whole(experiment.data)
    images = load_images(experiment, default_device(), raw)
    check_experiment(experiment, images)
    folder = Folder(out)
    check_folder(folder, experiment)
    network = fresh_network(experiment, images, experiment.seeds[0])
    trainer: Executor
    if executor == "local":
        trainer = LocalExecutor(images, slots=slots, backend=_backend(backend, network, default_device().type))
    else:
        from oracle.execution.ray_tune import RayExecutor

        trainer = RayExecutor(address=address, slots=slots)
    with contextlib.ExitStack() as lock, contextlib.closing(trainer):  # workers end before another search may begin
        try:
            lock.enter_context(folder.lock())
            check_folder(folder, experiment)  # again: starting a cluster takes seconds
            trainer.prove_folder(folder)
            folder.write_if_changed("experiment.yaml", experiment.to_yaml().encode())
            settings = read_settings(folder)
            if settings is None:
                settings = _choose_settings(experiment, _backend(backend, network, trainer.device), trainer, pack_size)
                folder.write("settings.json", settings.to_json().encode())
            check_settings(folder, settings, backend=backend, device=trainer.device, pack_size=pack_size)
            if dict(settings.versions) != versions():
                watch.says(f"begun with {dict(settings.versions)}, going on with {versions()}: last digits may differ")
            job = Job(
                folder=folder,
                experiment=experiment,
                settings=settings,
                keep_weights=carry == "keep",
                checkpoint_seconds=checkpoint_seconds,
            )
            return Chain(job, trainer, raw, images, watch).run()
        finally:
            watch.ends()


def fair_pack_size(num_candidates: int, num_seeds: int, slots: int, backend: Backend, device: str = "cpu") -> int:
    """Candidates a pack so that all slots finish together, with as few packs as that allows.

    A pack costs its candidates and, in the same unit, what every pack pays anew: its start, and for the pack backend the
    kernels that cost the same for one candidate as for two.
    """
    overhead = 2.0 if backend == "pack" else 0.25

    def makespan(size: int) -> float:
        rounds = -(-num_seeds * -(-num_candidates // size) // slots)
        return rounds * (size + overhead)

    largest = min(num_candidates, GPU_PACK) if device == "cuda" else num_candidates
    return min(range(largest, 0, -1), key=makespan)


def plan_packs(cycle: int, candidates: Sequence[float], seeds: Sequence[int], chain: str, size: int) -> list[Pack]:
    """The packs of one seed after the other. Neighbouring rates go to different packs: the large ones diverge together."""
    parts = -(-len(candidates) // size)
    ascending = sorted(candidates)
    return [
        Pack(cycle=cycle, seed=seed, candidates=tuple(ascending[part::parts]), lineage=chain)
        for seed in seeds
        for part in range(parts)
    ]


class Chain:
    """The cycles of one run, in order. See `run_oracle`."""

    def __init__(
        self,
        job: Job,
        executor: Executor,
        raw: RawImages | None,
        images: Images,
        watch: Watch,
    ) -> None:
        """`raw`: what a worker needs to load the images itself; None for a folder of images."""
        self._job, self._executor, self._raw, self._images, self._watch = job, executor, raw, images, watch
        self._folder, self._experiment = job.folder, job.experiment
        self._optima: list[float] = []  # of the cycles chosen so far

    def run(self) -> pa.Table:
        """Every cycle that is missing. Returns the table of all."""
        cycles = self._experiment.pruning.cycles
        self._watch.starts(experiment=self._experiment, folder=self._folder)
        self._folder.delete_partials()
        rows = self._known_rows()
        for cycle in range(cycles + 1):
            row = self._choose(cycle)
            known = rows[cycle] if cycle < len(rows) else None
            if known is None or row | {"seconds": None} != known | {"seconds": None}:
                later = rows[cycle + 1 :] if known is not None and known["max_lr"] == row["max_lr"] else []
                rows = [*rows[:cycle], row, *later]  # what followed from another optimum is no longer true
                self._optima.append(row["max_lr"])
                self._winners(cycle)
                merge_trials(self._folder, cycle, lineage(self._optima[:cycle]))
                write_oracle(self._folder, self._experiment, rows)
            else:
                self._optima.append(row["max_lr"])
                if not winners_are_whole(self._folder, cycle, self._experiment.seeds):
                    self._winners(cycle)
                    merge_trials(self._folder, cycle, lineage(self._optima[:cycle]))
            if self._experiment.diagnostics:
                self._diagnose(cycle)
            self._clean(cycle)
            self._tell(row)
        return write_oracle(self._folder, self._experiment, rows)

    def _known_rows(self) -> list[dict[str, Any]]:
        try:
            return oracle_rows(self._folder)
        except FolderError:
            self._watch.says("oracle.parquet cannot be read, and is made anew from the trials")
            return []

    def _choose(self, cycle: int) -> dict[str, Any]:
        """The cycle's row, from its trials; trains the missing ones, and grows the grid where that is asked for."""
        grid = self._experiment.grid
        candidates = self._experiment.candidates(cycle)
        new: Sequence[float] = candidates
        for name in set_aside(self._folder, cycle):
            self._watch.says(
                f"{name}: is not whole, and was renamed to end in .unreadable; its trials are trained again"
            )
        while True:
            self._train(cycle, new)
            trials = self._trials(cycle, candidates)
            if trials.num_rows < len(candidates) * len(self._experiment.seeds):
                raise FolderError(
                    f"{self._folder / cycle_folder('trials', cycle)}: {trials.num_rows} of "
                    f"{len(candidates) * len(self._experiment.seeds)} trials can be read, though all were trained; is "
                    "something else at work in this folder? Run the same command again: it trains what is missing"
                )
            row = find_interval(trials, tolerance=self._experiment.tolerance)
            row = {**row, "cycle": cycle}
            if self._experiment.peaks is not None:  # nothing was searched, so nothing has an edge
                return row | dict.fromkeys(("lo_on_edge", "hi_on_edge", "optimum_on_edge"), False)
            if not grid.extend:
                return row
            grown = grid.extended(candidates, low=row["lo_on_edge"], high=row["hi_on_edge"])
            new = [max_lr for max_lr in grown if max_lr not in candidates]
            if not new:
                return row
            candidates = grown

    def _train(self, cycle: int, candidates: Sequence[float]) -> None:
        chain = lineage(self._optima)
        size = self._job.settings.pack_size
        packs = plan_packs(cycle, candidates, self._experiment.seeds, chain, size)
        done = done_trials(self._folder, cycle, chain)
        lacking = {pack: missing(pack, done) for pack in packs}
        todo = [pack for pack, rates in lacking.items() if rates]
        if not todo:
            return
        for seed in {pack.seed for pack in todo}:
            self._parent(cycle, seed)
        trials = sum(map(len, lacking.values()))
        self._watch.cycle_starts(cycle=cycle, lineage=chain, packs=len(todo), trials=trials)
        self._executor.run(self._job, todo, self._raw, self._watch)

    def _trials(self, cycle: int, candidates: Sequence[float]) -> pa.Table:
        """The cycle's trials of these candidates and the experiment's seeds."""
        table = trials_of_cycle(self._folder, cycle, lineage(self._optima))
        chosen = pc.and_(
            pc.is_in(table["max_lr"], pa.array(candidates, pa.float64())),
            pc.is_in(table["seed"], pa.array(self._experiment.seeds, pa.int64())),
        )
        return table.filter(chosen)

    def _parent(self, cycle: int, seed: int) -> Parent:
        """The parent of a cycle's trials, from the folder or made anew."""
        chain = lineage(self._optima[:cycle])
        parent = read_parent(self._folder, cycle, seed, chain)
        if parent is None:
            if cycle == 0:
                parent = first_parent(self._experiment, seed, self._images)
            else:
                first = self._winner(0, seed) if self._experiment.pruning.rewind_step else None
                winner = self._winner(cycle - 1, seed)
                parent = next_parent(self._experiment, seed, self._images, cycle=cycle, winner=winner, first=first)
                if all(mask.equal(winner.masks[name]) for name, mask in parent.masks.items()):
                    self._watch.says(
                        f"cycle {cycle}, seed {seed}: pruning.rate {self._experiment.pruning.rate:g} of what is left is "
                        "less than one weight, or filter: nothing was pruned"
                    )
                emptied = sorted(set(emptied_layers(parent.masks)) - set(emptied_layers(winner.masks)))
                if emptied:
                    self._watch.says(
                        f"cycle {cycle}, seed {seed}: pruning left nothing of {', '.join(emptied)}; what only passes "
                        "through there no longer reaches the output"
                    )
            write_parent(self._folder, cycle, seed, chain, parent)
        return parent

    def _winner(self, cycle: int, seed: int) -> Winner:
        chain, max_lr = lineage(self._optima[:cycle]), self._optima[cycle]
        winner = read_winner(self._folder, cycle, seed, chain, max_lr)
        if winner is None:
            winner = self._winners(cycle)[seed]
            merge_trials(self._folder, cycle, chain)
            self._clean(cycle)
        return winner

    def _winners(self, cycle: int) -> dict[int, Winner]:
        """Keep each seed's network at the optimum. Those whose weights are not there are trained once more."""
        chain, max_lr = lineage(self._optima[:cycle]), self._optima[cycle]
        trials = trials_of_cycle(self._folder, cycle, chain)
        winners: dict[int, Winner] = {}
        again: dict[int, Pack] = {}
        for seed in self._experiment.seeds:
            winner = read_winner(self._folder, cycle, seed, chain, max_lr)
            if winner is None:
                pack = _committed_with(trials, seed, max_lr)
                winner = read_final(self._folder, cycle, pack.name, max_lr, self._parent(cycle, seed).masks)
            if winner is None:
                again[seed] = pack
            else:
                winners[seed] = winner
        if again:
            self._watch.says(
                f"cycle {cycle}: training the winners of seeds {sorted(again)} once more for their weights"
            )
            trials_again = sum(len(pack.candidates) for pack in again.values())
            self._watch.cycle_starts(cycle=cycle, lineage=chain, packs=len(again), trials=trials_again)
            self._executor.run(self._job, list(again.values()), self._raw, self._watch)
            for seed, pack in again.items():
                winner = read_final(self._folder, cycle, pack.name, max_lr, self._parent(cycle, seed).masks)
                if winner is None:
                    raise ClusterError(
                        f"search {self._experiment.name}, cycle {cycle}, seed {seed}, max_lr {max_lr:g}: trained once "
                        "more, but its weights are not there; run the same command again"
                    )
                winners[seed] = winner
        for seed, winner in winners.items():
            write_winner(self._folder, cycle, seed, chain, max_lr, winner)
        return winners

    def _diagnose(self, cycle: int) -> None:
        """Write what is missing of the winners' diagnostics."""
        chain = lineage(self._optima[: cycle + 1])
        for seed in self._experiment.seeds:
            if diagnostics_of_winner(self._folder, cycle, seed, chain) is None:
                table = diagnose(
                    self._experiment,
                    self._images,
                    cycle=cycle,
                    seed=seed,
                    max_lr=self._optima[cycle],
                    parent=self._parent(cycle, seed),
                    winner=self._winner(cycle, seed),
                    lineage=chain,
                )
                write_diagnostics(self._folder, cycle, seed, table)

    def _clean(self, cycle: int) -> None:
        for kind in ("weights", "checkpoints", "parents"):
            self._folder.delete_below(cycle_folder(kind, cycle))

    def _tell(self, row: dict[str, Any]) -> None:
        self._watch.cycle_ends(row)
        edges = [(name, end) for name, end in (("lower", "lo"), ("upper", "hi")) if row[f"{end}_on_edge"]]
        if edges:
            optima = [name for name, end in edges if row["max_lr"] == row[end]]
            what, ends = ("the optimum lies", optima) if optima else ("the interval ends", [name for name, _ in edges])
            way_out = (
                f"it grew as far as grid.max_extra = {self._experiment.grid.max_extra} and the spacing let it"
                if self._experiment.grid.extend
                else "grid.extend=true lets the grid grow"
            )
            self._watch.says(
                f"cycle {row['cycle']}: {what} on the grid's {' and '.join(ends)} edge and may reach further; {way_out}"
            )


def _committed_with(trials: pa.Table, seed: int, max_lr: float) -> Pack:
    """The pack that committed a trial: trained again in the same company, it ends with the same bits."""
    rows = trials.select(["cycle", "seed", "max_lr", "lineage", "commit"]).to_pylist()
    [own] = [row for row in rows if row["seed"] == seed and row["max_lr"] == max_lr]
    candidates = sorted(row["max_lr"] for row in rows if row["commit"] == own["commit"])
    return Pack(cycle=own["cycle"], seed=seed, candidates=tuple(candidates), lineage=own["lineage"], again=True)


def _choose_settings(experiment: Experiment, backend: Backend, trainer: Executor, pack_size: int | None) -> Settings:
    size = pack_size or fair_pack_size(
        len(experiment.candidates(0)), len(experiment.seeds), trainer.slots, backend, trainer.device
    )
    return Settings(backend=backend, device=trainer.device, pack_size=size, threads=1, versions=versions())


def _backend(asked: Literal["auto", "plain", "pack"], network: nn.Module, device: str) -> Backend:
    return choose_backend(network, device) if asked == "auto" else asked


def _with_peaks(experiment: Experiment, peaks: Sequence[float]) -> Experiment:
    try:
        numbers = [None if isinstance(peak, str | bool) else float(peak) for peak in peaks]
    except (TypeError, ValueError):
        numbers = [None]
    if None in numbers:
        raise ExperimentError(f"peaks: expected a list of numbers, one max_lr a cycle, found {peaks!r}")
    return experiment_from_yaml(experiment.to_yaml(), overrides=[f"peaks={numbers}"])
