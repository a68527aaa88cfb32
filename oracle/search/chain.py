"""Prune and rewind, search, keep the winners, commit, and again: the chain of cycles, whoever trains their packs.

Every step can be repeated, and does only what is missing. A chain that goes on passes the finished cycles, and takes up
the first one that is not.
"""

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import replace

import pyarrow as pa

from oracle.analysis.diagnostics import diagnose, has_diagnostics, write_diagnostics
from oracle.data.images import Images
from oracle.errors import CancelledError, FolderError
from oracle.events import (
    CancelToken,
    CycleFinished,
    CycleStarted,
    Event,
    Listener,
    Notice,
    TrainingStarted,
    TrialFinished,
)
from oracle.execution.jobs import Executor, Job, Pack, Work, plan_packs
from oracle.pruning.masks import emptied_layers
from oracle.runs.cycle import Commits, CycleStore, only
from oracle.runs.decisions import Decision, Pair
from oracle.runs.lineage import Lineages
from oracle.runs.networks import (
    Form,
    read_final,
    read_parent,
    read_winner,
    winners_are_whole,
    write_parent,
    write_winner,
)
from oracle.runs.tables import (
    ESTIMATED,
    TRIALS,
    Row,
    oracle_hash,
    oracle_rows,
    p_within_rows,
    write_oracle,
)
from oracle.search.certainty import CurveReading
from oracle.search.how_sure import UNTOLD, keep_candidates, reading_of
from oracle.search.progress import CycleProgress, cycle_progress
from oracle.search.strategies import STRATEGIES, Strategy
from oracle.search.until_sure import UntilSure
from oracle.search.winners import lost_winners, pack_of
from oracle.storage import Folder
from oracle.training.parents import Parent, Winner, first_parent, next_parent


class Chain:
    """The cycles of one run, in order. See `run_oracle`."""

    def __init__(
        self,
        folder: Folder,
        job: Job,
        strategy: Strategy,
        executor: Executor,
        images: Images,
        *,
        lineages: Lineages,
        hashes: Collection[str],
        form: Form,
        tell: Listener,
        cancel: CancelToken,
    ) -> None:
        """`strategy` says what is trained, `executor` trains it, `tell` hears of it.

        `lineages`: how the folder names its chain. `hashes`: of this experiment with the seeds and cycles of now and of
        before; another's oracle.parquet is not believed. `form`: of the networks that are read back.
        """
        self._folder, self._job, self._strategy, self._executor = folder, job, strategy, executor
        self._images, self._tell, self._cancel = images, tell, cancel
        self._lineages, self._hashes, self._form = lineages, hashes, form
        self._experiment, self._seeds = job.experiment, job.experiment.seeds
        self._passed: list[CycleProgress] = []  # the finished cycles, in order
        self._written: set[int] = set()  # cycles whose winners were written here, and so can be read
        self._read = Decision(basis={})  # of the cycle at work, as its file had it
        self._rows: list[Row] = []  # of oracle.parquet

    def run(self) -> pa.Table:
        """Every cycle that is missing. Returns the table of all."""
        self._folder.delete_partials()
        self._rows = self._known_rows()
        for cycle in range(self._experiment.pruning.cycles + 1):
            store = self._store(cycle)
            commits = Commits(store).look()
            for name in commits.set_unreadable_aside():
                self._say_set_aside(name, "its trials are trained again")
            progress = self._progress(store, commits)
            if not self._is_finished(store, progress):
                self._tell(CycleStarted(cycle=cycle, done=_told(progress.trials)))
                self._restore_winners_before(cycle)
                self._prune_and_rewind(store)
                progress = self._search(store, commits, progress)
                self._keep_winners(store, progress)
                self._diagnose(store, progress)
                self._commit(store, commits, progress)
            self._pass(store, progress)
        self._complete_candidates()
        return write_oracle(self._folder, self._experiment, self._rows)

    # The steps of a cycle, in order. Each returns at once where it has been done.

    def _prune_and_rewind(self, store: CycleStore) -> None:
        """Put a parent where the workers find it, for every seed that has none."""
        for seed in self._seeds:
            if self._parent(store, seed) is None:
                write_parent(store, seed, self._make_parent(store, seed))

    def _search(self, store: CycleStore, commits: Commits, progress: CycleProgress) -> CycleProgress:
        """Train what the strategy asks for, round by round, until it has chosen. Decisions are written, then acted on."""
        progress = self._bring_seeds(store, commits, progress)
        store.write_decision(progress.decision)
        while progress.lacking:
            asked = set(progress.lacking)
            packs = [
                pack
                for pairs in progress.decision.rounds
                for pack in plan_packs(store, pairs, self._job.settings.pack_size, lacking=asked)
            ]
            told = self._train(packs, trials=len(asked))
            progress = self._bring_seeds(store, commits, self._progress(store, commits.look()))
            store.write_decision(progress.decision)
            for trial in _told(only(progress.trials, asked - told)):  # what a worker that was lost could not tell
                self._tell(trial)
            unread = asked & set(progress.lacking)
            if unread:
                raise FolderError(
                    f"{self._folder / store.path('trials')}: {len(unread)} trials cannot be read, though all were "
                    "trained; is something else at work in this folder? Run the same command again: it trains what is "
                    "missing"
                )
        return progress

    def _bring_seeds(self, store: CycleStore, commits: Commits, progress: CycleProgress) -> CycleProgress:
        """Bring seeds that are to be added up to the cycle: one training at each optimum before, and their parents.

        One that diverges on its way is left out, and the next whole number takes its place.
        """
        while new := sorted({seed for _, seed in progress.lacking if seed not in self._seeds}):
            for seed in new:
                if not self._bring(seed, store):
                    if not isinstance(self._strategy, UntilSure):
                        raise FolderError(
                            f"{self._folder.url}: cycle {store.cycle} was begun with seed {seed}, which has diverged since "
                            "on the way there; go on with --until-sure, which adds another one"
                        )
                    unusable = self._strategy.unusable | {seed}
                    self._strategy = replace(self._strategy, unusable=unusable)
            if not (isinstance(self._strategy, UntilSure) and self._strategy.unusable & set(new)):
                break
            progress = self._progress(store, commits)
        return progress

    def _bring(self, seed: int, to: CycleStore) -> bool:
        """Whether a seed's parent at a cycle is there now; not where it diverged at the optimum of a cycle before."""
        for cycle, max_lr in enumerate(self._optima[: to.cycle]):
            store = self._store(cycle)
            if self._read_winner(store, seed, max_lr) is not None:
                continue
            # Rows with a lineage of their own: no earlier cycle's trials change.
            store = replace(store, lineage=self._lineages.of_added_seeds(store.lineage))
            if self._parent(store, seed) is None:
                write_parent(store, seed, self._make_parent(store, seed))
            pack = Pack(store=store, seed=seed, candidates=(max_lr,), again=not self._job.keep_finals)
            winner, outcomes = self._final(pack, max_lr), self._outcomes(pack)
            if winner is None and outcomes != ["diverged"]:
                self._train([replace(pack, again=pack.again or bool(outcomes))], trials=1)
                winner, outcomes = self._final(pack, max_lr), self._outcomes(pack)
            if outcomes != ["finished"] or winner is None:
                self._say(
                    f"cycle {to.cycle}: seed {seed} cannot be added, as it diverged at the optimum of cycle {cycle}"
                )
                return False
            write_winner(self._store(cycle), seed, max_lr, winner)
            store.clean()
        if self._parent(to, seed) is None:
            write_parent(to, seed, self._make_parent(to, seed))
        return True

    @staticmethod
    def _outcomes(pack: Pack) -> list[str]:
        outcomes: list[str] = only(pack.store.trials(), pack.pairs)["outcome"].to_pylist()
        return outcomes

    def _keep_winners(self, store: CycleStore, progress: CycleProgress) -> None:
        """Keep each seed's network at the optimum. Those whose final states are gone are trained once more."""
        max_lr = progress.chosen
        missing = [seed for seed in progress.seeds if self._read_winner(store, seed, max_lr) is None]
        for seed in sorted(set(missing) - set(self._seeds)):  # whose parents may be lost, too
            self._bring(seed, store)
        packs = {seed: pack_of(store, progress.trials, seed, max_lr) for seed in missing}
        finals = {seed: self._final(pack, max_lr) for seed, pack in packs.items()}
        again = [packs[seed] for seed in missing if finals[seed] is None]
        if again:
            seeds = sorted(pack.seed for pack in again)
            self._say(f"cycle {store.cycle}: training the winners of seeds {seeds} once more for their weights")
            self._train(again, trials=sum(len(pack.candidates) for pack in again))
        for seed in missing:
            winner = finals[seed] or self._final(packs[seed], max_lr)
            if winner is None:
                raise FolderError(
                    f"search {self._experiment.name}, cycle {store.cycle}, seed {seed}, max_lr {max_lr:g}: trained once "
                    "more, but its weights are not there; run the same command again"
                )
            write_winner(store, seed, max_lr, winner)
        self._written.add(store.cycle)

    def _diagnose(self, store: CycleStore, progress: CycleProgress) -> None:
        """Write what is missing of the winners' diagnostics, where the experiment asks for them."""
        for seed in self._undiagnosed(store, progress):
            parent, winner = self._parent(store, seed), self._read_winner(store, seed, progress.chosen)
            assert parent is not None
            assert winner is not None
            table = diagnose(
                self._experiment,
                self._images,
                cycle=store.cycle,
                seed=seed,
                max_lr=progress.chosen,
                parent=parent,
                winner=winner,
                after=self._lineage_after(progress),
            )
            write_diagnostics(store, seed, table)

    def _commit(self, store: CycleStore, commits: Commits, progress: CycleProgress) -> None:
        """Put the row into oracle.parquet. What followed from another optimum is no longer true, and goes."""
        row = progress.row
        assert row is not None
        found = self._reading(store.cycle, [*self._passed, progress])
        row |= found.columns() if found is not None else {}
        commits.look().merge()
        known = self._rows[store.cycle] if store.cycle < len(self._rows) else None
        later = self._rows[store.cycle + 1 :] if known is not None and known["max_lr"] == row["max_lr"] else []
        self._rows = [*self._rows[: store.cycle], row, *later]
        keep_candidates(self._folder, self._experiment, self._rows, store.cycle, found)
        write_oracle(self._folder, self._experiment, self._rows)

    def _reading(self, cycle: int, so_far: Sequence[CycleProgress]) -> CurveReading | None:
        """How sure a cycle's row is; None where that cannot be told. No search ends for want of an estimate."""
        trials = pa.concat_tables([progress.trials for progress in so_far])
        try:
            return reading_of(self._experiment, cycle, trials)
        except UNTOLD as error:
            self._say(f"cycle {cycle}: how sure its interval is cannot be told: {error}")
            return None

    def _complete_candidates(self) -> None:
        """Make anew what p_within.parquet has lost of finished cycles."""
        there = {row["cycle"] for row in p_within_rows(self._folder)}
        for cycle, row in enumerate(self._rows):
            if row["curve_max_lr"] is not None and cycle not in there:
                found = self._reading(cycle, self._passed[: cycle + 1])
                keep_candidates(self._folder, self._experiment, self._rows, cycle, found)

    def _pass(self, store: CycleStore, progress: CycleProgress) -> None:
        """Go on to the next cycle."""
        assert progress.row is not None
        if progress.decision != self._read:  # runs of older versions have none
            store.write_decision(progress.decision)
        store.clean()
        self._passed.append(progress)
        row = self._rows[store.cycle]
        self._tell(CycleFinished(row=row))
        self._say_edges(row)
        self._say_unsure(row)

    def _make_parent(self, store: CycleStore, seed: int) -> Parent:
        """A seed's parent: fresh at cycle 0, then pruned from the winner of the cycle before, and rewound."""
        if store.cycle == 0:
            return first_parent(self._experiment, seed, self._images)
        winner = self._winner(store.cycle - 1, seed)
        first = self._winner(0, seed) if self._experiment.pruning.rewind_step else None
        parent = next_parent(self._experiment, seed, self._images, cycle=store.cycle, winner=winner, first=first)
        self._say_pruned(store.cycle, seed, winner, parent)
        return parent

    # What a cycle's steps look at: reads, which never train, write or delete.

    @property
    def _optima(self) -> list[float]:
        return [progress.chosen for progress in self._passed]

    def _store(self, cycle: int) -> CycleStore:
        return CycleStore(folder=self._folder, cycle=cycle, lineage=self._lineages.after(self._optima[:cycle]))

    def _progress(self, store: CycleStore, commits: Commits) -> CycleProgress:
        basis = {"seeds": sorted(self._seeds), "candidates": list(self._experiment.candidates(store.cycle))}
        self._read = store.read_decision(basis)
        return cycle_progress(
            self._strategy,
            store.cycle,
            self._read,
            seeds=self._seeds,
            earlier=pa.concat_tables([TRIALS.empty_table(), *(progress.trials for progress in self._passed)]),
            trials=commits.trials(),
            committed=self._committed_row(store.cycle),
        )

    def _committed_row(self, cycle: int) -> Row | None:
        """The cycle's row in oracle.parquet, where it is of this chain and of these seeds."""
        before = [row["max_lr"] for row in self._rows[:cycle]]
        if cycle >= len(self._rows) or before != self._optima[:cycle]:
            return None
        row = self._rows[cycle]
        if row["num_seeds_added"]:  # only the decision knows what they trained
            return None
        return row if row["cycle"] == cycle and row["num_seeds"] == len(self._seeds) else None

    def _is_finished(self, store: CycleStore, progress: CycleProgress) -> bool:
        """Whether nothing of a cycle is missing: its row in oracle.parquet, its winners, its diagnostics."""
        if progress.row is None or store.cycle >= len(self._rows):
            return False
        free = dict.fromkeys((*ESTIMATED, "seconds"))  # what may differ in a row that is known
        if progress.row | free != self._rows[store.cycle] | free:
            return False
        return self._winners_are_there(store, progress) and not self._undiagnosed(store, progress)

    def _winners_are_there(self, store: CycleStore, progress: CycleProgress) -> bool:
        """Whether all winners are; from an object store only their first bytes are fetched."""
        if self._folder.is_remote:
            return winners_are_whole(store, progress.seeds)
        return all(self._read_winner(store, seed, progress.chosen) is not None for seed in progress.seeds)

    def _undiagnosed(self, store: CycleStore, progress: CycleProgress) -> list[int]:
        """Seeds whose winners' diagnostics are asked for, and missing."""
        after = self._lineage_after(progress)
        seeds = progress.seeds if self._experiment.diagnostics else ()
        return [seed for seed in seeds if not has_diagnostics(store, seed, after)]

    def _lineage_after(self, progress: CycleProgress) -> str:
        """Of the winners of the cycle at work."""
        return self._lineages.of_winners([*self._optima, progress.chosen])

    def _known_rows(self) -> list[Row]:
        with contextlib.suppress(FolderError):
            rows = oracle_rows(self._folder)
            if not rows or oracle_hash(self._folder) in self._hashes:
                return rows
        self._say("oracle.parquet is damaged, or of another experiment, and is made anew from the trials")
        return []

    def _parent(self, store: CycleStore, seed: int) -> Parent | None:
        return read_parent(store, seed, self._form, damaged=self._set_aside)

    def _read_winner(self, store: CycleStore, seed: int, max_lr: float) -> Winner | None:
        return read_winner(store, seed, max_lr, self._form, damaged=self._set_aside)

    def _final(self, pack: Pack, max_lr: float) -> Winner | None:
        """The final state of one of a pack's candidates; None where it is gone."""
        parent = self._parent(pack.store, pack.seed)
        if parent is None:
            return None
        return read_final(pack.store, pack.name, max_lr, parent.masks, self._form, damaged=self._set_aside)

    def _winner(self, cycle: int, seed: int) -> Winner:
        store = self._store(cycle)
        winner = self._read_winner(store, seed, self._optima[cycle])
        if winner is None:
            raise FolderError(
                f"{self._folder / store.path('winners')}: the winner of seed {seed} was there, and cannot be "
                "read any more; run the same command again: it is made anew"
            )
        return winner

    # Repairs, before the chain goes on.

    def _set_aside(self, name: str) -> None:
        """Rename a network that is damaged."""
        self._folder.set_aside(name)
        self._say_set_aside(name, "it is made again")

    def _restore_winners_before(self, cycle: int) -> None:
        """Make the winners anew that pruning for `cycle` reads, and that were damaged or deleted: the oldest first."""
        stores = [self._store(earlier) for earlier in range(cycle)]

        def read(store: CycleStore, seed: int) -> Winner | None:
            return self._read_winner(store, seed, self._optima[store.cycle])

        for store in lost_winners(stores, self._experiment, read, but=self._written):
            self._prune_and_rewind(store)
            self._keep_winners(store, self._passed[store.cycle])
            Commits(store).look().merge()
            store.clean()

    # Training and telling.

    def _train(self, packs: Sequence[Pack], *, trials: int) -> set[Pair]:
        """Have the executor train packs of one cycle. Returns the trials that were told of.

        CancelledError where the search is to stop.
        """
        cycle, told = packs[0].store.cycle, set[Pair]()

        def tell(event: Event) -> None:
            if isinstance(event, TrialFinished):
                told.add((event.max_lr, event.seed))
            self._tell(event)

        self._tell(TrainingStarted(cycle=cycle, packs=len(packs), trials=trials))
        if not self._cancel.is_cancelled():
            self._executor.run([Work(job=self._job, packs=packs, tell=tell)], cancel=self._cancel)
        if self._cancel.is_cancelled():
            raise CancelledError(
                f"search {self._experiment.name}: cancelled in cycle {cycle}; what was finished is kept, and the same "
                "search goes on from there"
            )
        return told

    def _say(self, text: str) -> None:
        self._tell(Notice(text=text))

    def _say_set_aside(self, name: str, then: str) -> None:
        self._say(f"{name}: is not whole, and was renamed to end in .unreadable; {then}")

    def _say_pruned(self, cycle: int, seed: int, winner: Winner, parent: Parent) -> None:
        if all(mask.equal(winner.masks[name]) for name, mask in parent.masks.items()):
            self._say(
                f"cycle {cycle}, seed {seed}: pruning.rate {self._experiment.pruning.rate:g} of what is left is less "
                "than one weight, or filter: nothing was pruned"
            )
        emptied = sorted(set(emptied_layers(parent.masks)) - set(emptied_layers(winner.masks)))
        if emptied:
            self._say(
                f"cycle {cycle}, seed {seed}: pruning left nothing of {', '.join(emptied)}; what only passes through "
                "there no longer reaches the output"
            )

    def _say_edges(self, row: Row) -> None:
        edges = [(name, end) for name, end in (("lower", "lo"), ("upper", "hi")) if row[f"{end}_on_edge"]]
        if not edges:
            return
        optima = [name for name, end in edges if row["max_lr"] == row[end]]
        what, ends = ("the optimum lies", optima) if optima else ("the interval ends", [name for name, _ in edges])
        if self._experiment.search.strategy not in STRATEGIES:
            where, way_out = f"the {' and '.join(ends)} edge of what was tried", ""
        elif self._experiment.grid.extend:
            where = f"the grid's {' and '.join(ends)} edge"
            way_out = f"; it grew as far as grid.max_extra = {self._experiment.grid.max_extra} and the spacing let it"
        else:
            where, way_out = f"the grid's {' and '.join(ends)} edge", "; grid.extend=true lets the grid grow"
        self._say(f"cycle {row['cycle']}: {what} on {where} and may reach further{way_out}")

    def _say_unsure(self, row: Row) -> None:
        """Why a cycle was left, though its optimum is not as sure as was asked for."""
        if not isinstance(self._strategy, UntilSure):
            return
        trials = pa.concat_tables([progress.trials for progress in self._passed])
        found = self._strategy.probability_of(row["max_lr"], trials)
        if found < self._strategy.probability:
            seeds = f"{row['num_seeds']} seeds"
            seeds += (
                ", as many as --max-seeds allows"
                if row["num_seeds"] >= self._strategy.max_seeds
                else "; it was finished before, and stays as it is: only more seeds at every cycle choose anew"
            )
            self._say(
                f"cycle {row['cycle']}: the optimum is within the tolerance of the best with probability {found:.2f}, less "
                f"than the {self._strategy.probability:g} that was asked for, after {seeds}"
            )


def _told(trials: pa.Table) -> tuple[TrialFinished, ...]:
    return tuple(map(TrialFinished.of, trials.to_pylist()))
