"""`run_oracle`: from an experiment and a folder to the table of optima."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from oracle.errors import CancelledError, ExperimentError, FolderError
from oracle.events import Broadcast, CancelToken, Listener, Notice, RunEnded, RunStarted
from oracle.execution.executors import EXECUTORS, BackendChoice, Launch, check_choice
from oracle.execution.jobs import Executor, Job
from oracle.experiment import Experiment, experiment_from_yaml
from oracle.runs.event_log import EventLog
from oracle.runs.lineage import lineages_of
from oracle.runs.networks import Form
from oracle.runs.records import EXPERIMENT, read_experiment, write_experiment
from oracle.runs.settings import Settings, read_settings, versions, write_settings
from oracle.runs.tables import is_finished, oracle_rows
from oracle.search.chain import Chain
from oracle.search.packing import fair_pack_size
from oracle.search.preflight import Prepared, check_folder, check_settings, prepare
from oracle.search.strategies import Strategy, trainings
from oracle.search.until_sure import UntilSure
from oracle.storage import Folder
from oracle.training.backends import default_device


def run_oracle(
    experiment: Experiment,
    out: str | Path,
    *,
    executor: str = "ray",
    address: str | None = None,
    slots: int | None = None,
    backend: BackendChoice = "auto",
    pack_size: int | None = None,
    carry: Literal["keep", "retrain"] = "keep",
    checkpoint_seconds: float = 60.0,
    peaks: Sequence[float] | None = None,
    strategy: Strategy | None = None,
    until_sure: float | None = None,
    max_seeds: int | None = None,
    listeners: Sequence[Listener] = (),
    cancel: CancelToken | None = None,
) -> pa.Table:
    """Search max_lr at every cycle; returns oracle.parquet as a table. Run again after any stop, it goes on.

    `out`: a folder, local or s3://, gs://. `executor`: who trains, a key of EXECUTORS: `ray` or `local`. `address`: of a
    Ray cluster; None for one of this process's own. `slots`: packs at a time. `carry`: `keep` writes every trial's final
    weights until its cycle is chosen, `retrain` none, and trains the winners once more. `peaks`: the experiment's own
    replaced by these, one max_lr a cycle: nothing is searched. `strategy`: what to train next and what to choose, in place
    of the one that the experiment names; its name and parameters become a part of the run's identity. `until_sure`: before
    a cycle's row is written, seeds are added until its optimum is within the tolerance of the best with this probability,
    or there are `max_seeds` (by default twice the experiment's); earlier cycles stay as they are. `listeners`: told every
    event (`oracle.events`), from several threads but one at a time. `cancel`: a token that another thread may cancel.

    Raises an `oracle.errors.Error`: FolderError for a folder of another experiment or a full disk, DataError, NetworkError
    and ExperimentError before anything is trained, DivergedError, TrialError, ClusterError or CancelledError while it runs.
    """
    launch = Launch(executor=executor, address=address, slots=slots, backend=backend, pack_size=pack_size)
    how = How(launch=launch, carry=carry, checkpoint_seconds=checkpoint_seconds)
    if peaks is not None:
        experiment = _with_peaks(experiment, peaks)
    _check_until_sure(experiment, until_sure, max_seeds)
    folder = Folder(out)
    prepared = prepare(experiment, launch, folder=folder, strategy=strategy)
    with locked(folder, how.runner(prepared)) as runner:
        restored = check_folder(folder, prepared.experiment)  # again: starting a cluster takes seconds
        deciding = _deciding(prepared, folder, until_sure, max_seeds)
        tell = Broadcast([EventLog(folder), *listeners])
        return search(
            prepared, folder, runner, how, deciding, restored=restored, tell=tell, cancel=cancel or CancelToken()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a run is computed and kept: none of it is part of the experiment. ExperimentError where a value cannot be."""

    launch: Launch
    carry: Literal["keep", "retrain"] = "keep"
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_choice("carry", self.carry, ("keep", "retrain"))
        if not (isinstance(self.checkpoint_seconds, int | float) and self.checkpoint_seconds >= 0):
            raise ExperimentError(f"checkpoint_seconds: expected a number from 0 on, found {self.checkpoint_seconds!r}")

    def runner(self, prepared: Prepared) -> Executor:
        """Whoever trains; to be closed."""
        kind = EXECUTORS[self.launch.executor]
        return kind.make(self.launch, prepared.images, prepared.raw, prepared.backend(default_device().type))


@contextlib.contextmanager
def locked(folder: Folder, runner: Executor) -> Iterator[Executor]:
    """A folder locked for whoever trains; workers end before another search may begin there."""
    with contextlib.ExitStack() as lock, contextlib.closing(runner):
        lock.enter_context(folder.lock())
        yield runner


def search(
    prepared: Prepared,
    folder: Folder,
    runner: Executor,
    how: How,
    strategy: Strategy,
    *,
    restored: str | None,
    tell: Listener,
    cancel: CancelToken,
) -> pa.Table:
    """The chain of a folder that is locked and checked. `restored`: why its experiment.yaml has to be written anew."""
    runner.prove_folder(folder)
    lineages, hashes = lineages_of(folder, prepared.experiment), {prepared.experiment.hash}
    with contextlib.suppress(FolderError):
        hashes.add(read_experiment(folder).hash)  # with fewer seeds or cycles
    if restored is not None and folder.size(EXPERIMENT) is not None:
        folder.set_aside(EXPERIMENT)
    write_experiment(folder, prepared.experiment)
    with _told(prepared, folder, tell):
        if restored is not None:
            tell(Notice(text=restored))
        job = Job(
            experiment=prepared.experiment,
            settings=_begin_or_go_on(prepared, runner, how.launch, folder, tell),
            keep_finals=how.carry == "keep",
            checkpoint_seconds=how.checkpoint_seconds,
        )
        return Chain(
            folder,
            job,
            strategy,
            runner,
            prepared.images,
            lineages=lineages,
            hashes=hashes,
            form=Form.of(prepared.network, rewinds=prepared.experiment.pruning.rewind_step > 0),
            tell=tell,
            cancel=cancel,
        ).run()


def _check_until_sure(experiment: Experiment, until_sure: float | None, max_seeds: int | None) -> None:
    """ExperimentError where seeds cannot be added as is asked."""
    seeds = len(experiment.seeds)
    if until_sure is None:
        if max_seeds is not None:
            raise ExperimentError("max_seeds: bounds the seeds that until_sure adds; give that, too")
        return
    if not (isinstance(until_sure, int | float) and 0 < until_sure < 1):
        raise ExperimentError(f"until_sure: expected a probability between 0 and 1, as 0.95, found {until_sure!r}")
    if max_seeds is not None and not (isinstance(max_seeds, int) and max_seeds > seeds):
        raise ExperimentError(
            f"max_seeds: found {max_seeds!r}, expected more than the experiment's {seeds} seeds: they all train, and more "
            "are added"
        )
    if experiment.peaks is not None:
        raise ExperimentError("until_sure: the experiment's peaks fix every max_lr, so there is nothing to be sure of")


def _deciding(prepared: Prepared, folder: Folder, until_sure: float | None, max_seeds: int | None) -> Strategy:
    """The strategy, with seeds added where that is asked for. FolderError where every cycle is finished already."""
    experiment = prepared.experiment
    if until_sure is None:
        return prepared.strategy
    if is_finished(folder, experiment) and oracle_rows(folder)[-1]["num_seeds_added"] is None:  # by one that added none
        more = json.dumps([*experiment.seeds, max(experiment.seeds) + 1])
        raise FolderError(
            f"{folder.url}: every cycle is finished, and seeds are added only before a cycle's row is written; "
            f'--set "seeds={more}" in place of --until-sure trains more seeds at every cycle, and chooses anew'
        )
    return UntilSure(
        base=prepared.strategy,
        candidates=experiment.candidates(0),
        seeds=experiment.seeds,
        tolerance=experiment.tolerance,
        num_validation=experiment.data.validation,
        probability=until_sure,
        max_seeds=max_seeds or 2 * len(experiment.seeds),
    )


@contextlib.contextmanager
def _told(prepared: Prepared, folder: Folder, tell: Listener) -> Iterator[None]:
    """Tell of the run's start, and of its end however it goes."""
    experiment, pairs = prepared.experiment, prepared.first_round
    started = RunStarted(
        name=experiment.name,
        experiment=experiment.hash,
        folder=folder.url,
        cycles=experiment.pruning.cycles + 1,
        candidates=len({max_lr for max_lr, _ in pairs}),
        seeds=len(experiment.seeds),
        trials=round(trainings(experiment, prepared.strategy).likely / (experiment.pruning.cycles + 1)),
    )
    try:
        tell(started)
        yield
    except (KeyboardInterrupt, CancelledError):
        tell(RunEnded(outcome="stopped"))
        raise
    except BaseException:
        tell(RunEnded(outcome="failed"))
        raise
    tell(RunEnded(outcome="finished"))


def _begin_or_go_on(prepared: Prepared, runner: Executor, launch: Launch, folder: Folder, tell: Listener) -> Settings:
    """How the run is computed: as it was begun, or chosen now and written for all later runs."""
    settings = read_settings(folder)
    if settings is None:
        backend = prepared.backend(runner.device)
        size = launch.pack_size or fair_pack_size(prepared.first_round, runner.slots, backend, runner.device)
        settings = Settings(backend=backend, device=runner.device, pack_size=size, threads=1, versions=versions())
        write_settings(folder, settings)
    check_settings(folder, settings, launch, device=runner.device)
    if dict(settings.versions) != versions():
        tell(Notice(text=f"begun with {dict(settings.versions)}, going on with {versions()}: last digits may differ"))
    return settings


def _with_peaks(experiment: Experiment, peaks: Sequence[float]) -> Experiment:
    """The experiment with one max_lr a cycle in place of a search. ExperimentError where they cannot be."""
    try:
        numbers = [None if isinstance(peak, str | bool) else float(peak) for peak in peaks]
    except (TypeError, ValueError, OverflowError):
        numbers = [None]
    if None in numbers:
        raise ExperimentError(f"peaks: expected a list of numbers, one max_lr a cycle, found {peaks!r}")
    return experiment_from_yaml(experiment.to_yaml(), overrides=[f"peaks={numbers}"])
