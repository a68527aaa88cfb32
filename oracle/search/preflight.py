"""What comes before a search or a plan: data loaded, experiments that cannot run and folders of another run refused."""

from dataclasses import dataclass

import torch
from torch import nn

from oracle.data import check_batch_size, data_key, load_images, read_whole
from oracle.data.images import Images
from oracle.data.memory import full_memory_named
from oracle.data.sources import RawImages
from oracle.errors import FolderError, NetworkError
from oracle.execution.executors import BackendChoice, Launch
from oracle.experiment import Experiment, differences
from oracle.networks.pretrained import weights_sha256
from oracle.runs.cycle import CycleStore
from oracle.runs.decisions import Pair
from oracle.runs.lineage import AS_IN_0_1_0, Lineages, comparable, first_lineages, not_of_its_file
from oracle.runs.records import EXPERIMENT, read_experiment
from oracle.runs.settings import Settings, read_settings
from oracle.runs.tables import oracle_hash, oracle_rows
from oracle.search.strategies import Strategy, first_round, named_by
from oracle.storage import Folder, expanded
from oracle.training.backends import Backend, backend_of, default_device
from oracle.training.checks import check_network_fits, check_trainable
from oracle.training.parents import first_parent, parent_network


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An experiment that can be run here: its data loaded, all that can be refused beforehand looked at."""

    experiment: Experiment  # with absolute paths, and the strategy's name
    strategy: Strategy
    first_round: tuple[Pair, ...]  # of cycle 0
    raw: RawImages | None  # the data as stored; None for a folder of images
    images: Images  # on this machine's device
    network: nn.Module  # of the first seed, dense
    begun: Settings | None  # how the folder's run is computed, if it has begun
    asked: BackendChoice  # backend

    def backend(self, device: str) -> Backend:
        """As the run was begun, as was asked, or the one that suits network and device."""
        if self.begun is not None:
            return self.begun.backend
        return backend_of(self.experiment, self.network, device, self.asked)


def prepare(
    experiment: Experiment,
    launch: Launch,
    *,
    folder: Folder | None,
    strategy: Strategy | None = None,
    beside: Prepared | None = None,
) -> Prepared:
    """Check folder and experiment and load the data, as searching and planning both begin. Raises what they refuse.

    `beside`: one whose data are taken over where they are the same.
    """
    experiment, strategy = named_by(pinned(experiment), strategy)
    if folder is not None:
        check_folder(folder, experiment)
    device = default_device()
    if beside is not None and data_key(beside.experiment) == data_key(experiment):
        raw, images = beside.raw, beside.images
        check_batch_size(experiment, images)
    else:
        raw = read_whole(experiment.data)
        images = load_images(experiment, device, raw)
    check_network_fits(experiment, images, torch.device(device))
    seed = experiment.seeds[0]
    with full_memory_named(
        f"network {experiment.network.name} for images of {' x '.join(map(str, images.input_shape))}",
        "a smaller data.resolution or another network takes less",
    ):
        network = parent_network(experiment, seed, images, first_parent(experiment, seed, images))
        check_trainable(experiment, images, network)
    return Prepared(
        experiment=experiment,
        strategy=strategy,
        first_round=first_round(strategy),
        raw=raw,
        images=images,
        network=network,
        begun=None if folder is None else read_settings(folder),
        asked=launch.backend,
    )


def pinned(experiment: Experiment) -> Experiment:
    """With absolute paths, since workers run in folders of their own, and a start tied to what its file holds now.

    NetworkError where that file cannot be read, or is not the one that the experiment names by its hash.
    """
    data, network = experiment.data, experiment.network
    if data.path is not None:
        data = data.model_copy(update={"path": str(expanded(data.path).absolute())})
    if network.weights is not None:
        path = network.weights if "://" in network.weights else str(expanded(network.weights).absolute())
        found = weights_sha256(path)
        if network.weights_sha256 not in {None, found}:
            raise NetworkError(
                f"network.weights: {path} has the SHA-256 {found}, expected network.weights_sha256 "
                f"{network.weights_sha256}"
            )
        network = network.model_copy(update={"weights": path, "weights_sha256": found})
    return experiment.model_copy(update={"data": data, "network": network})


def check_folder(folder: Folder, experiment: Experiment) -> str | None:
    """Let a folder pass that is new, or whose run this experiment goes on with: the same, more seeds or more cycles.

    Returns why experiment.yaml has to be written anew, where the trials or oracle.parquet show that they are of this
    experiment; None where it need not. FolderError names what else differs.
    """
    told, own, old = first_lineages(folder), Lineages(experiment=experiment).after([]), AS_IN_0_1_0.after([])
    there: Experiment | None = None
    try:
        there = read_experiment(folder)
    except FolderError as error:
        why = str(error)
        if not told and folder.size(EXPERIMENT) is None and folder.size("oracle.parquet") is None:
            return None  # nothing is there that could be another's
    if there is not None:
        differ = _differing(there, experiment)
        if not differ and (not told or told & {own, old}):
            _check_more(folder, there, experiment)
            return None
        why = not_of_its_file(folder)
        if differ:
            why = (
                f"{folder.url} holds a run of another experiment; choose another folder with --out, or the same "
                "experiment. They differ in\n  " + "\n  ".join(differ)
            )
    by_table = (not told or bool(told & {own, old})) and oracle_hash(folder) == experiment.hash
    # Trials of cycle 0 may be of both: they know no later peak.
    is_of_there = there is not None and Lineages(experiment=there).after([]) in told and not by_table
    if (own not in told and not (there is None and by_table)) or is_of_there:
        raise FolderError(why)
    if not by_table:
        _check_covers(folder, experiment)
    return f"{EXPERIMENT} was missing, damaged or changed, and is written anew: what is there is of the same experiment"


def _differing(there: Experiment, experiment: Experiment) -> list[str]:
    """What makes them two, a line each; not seeds and cycles, of which there may be more."""
    cycles = min(there.pruning.cycles, experiment.pruning.cycles)
    return differences(comparable(there, cycles), comparable(experiment, cycles))


def _check_more(folder: Folder, there: Experiment, experiment: Experiment) -> None:
    """FolderError where the folder's experiment has seeds or cycles that are not asked for."""
    differ = []
    if any(seed not in experiment.seeds for seed in there.seeds):
        differ.append(
            f"seeds: {list(there.seeds)} there, {list(experiment.seeds)} asked for (more are fine, fewer not)"
        )
    if experiment.pruning.cycles < there.pruning.cycles:
        cycles = f"pruning.cycles: {there.pruning.cycles} there, {experiment.pruning.cycles} asked for"
        differ.append(f"{cycles} (more are fine, fewer not)")
    if differ:
        raise FolderError(
            f"{folder.url} holds a longer run of this experiment; choose another folder with --out, or the same "
            "experiment. They differ in\n  " + "\n  ".join(differ)
        )


def _check_covers(folder: Folder, experiment: Experiment) -> None:
    """FolderError where a folder without its experiment.yaml holds seeds or cycles that are not asked for."""
    store = CycleStore(folder=folder, cycle=0, lineage=Lineages(experiment=experiment).after([]))
    gone = sorted(set(store.trials()["seed"].to_pylist()) - set(experiment.seeds))
    rows = oracle_rows(folder) if folder.size("oracle.parquet") is not None else []
    finished = len(rows)
    if rows and rows[0]["num_seeds_added"]:  # the largest numbers
        gone = gone[: -rows[0]["num_seeds_added"]]
    lost = [f"the seeds {', '.join(map(str, gone))}"] if gone else []
    lost += [f"{finished} finished cycles"] if finished > experiment.pruning.cycles + 1 else []
    if lost:
        raise FolderError(
            f"{folder.url}: holds {' and '.join(lost)}, which were not asked for; {EXPERIMENT} is missing or damaged, and "
            "is written anew by a search that has them all"
        )


def check_settings(folder: Folder, settings: Settings, launch: Launch, *, device: str) -> None:
    """FolderError where the folder's run was begun in another way than is asked for now."""
    wrong = []
    if settings.device != device:
        wrong.append(f"device: {settings.device} there, {device} here")
    if launch.backend not in {"auto", settings.backend}:
        wrong.append(f"backend: {settings.backend} there, {launch.backend} asked for")
    if launch.pack_size not in {None, settings.pack_size}:
        wrong.append(f"pack size: {settings.pack_size} there, {launch.pack_size} asked for")
    if wrong:
        raise FolderError(
            f"{folder.url}: this run was begun in another way, and would not keep its bits: {'; '.join(wrong)}. Go on as "
            "it was begun, or choose another folder with --out"
        )
