"""What comes before a search or a plan: data loaded, experiments that cannot run and folders of another run refused."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from oracle.data import load_images, read_whole
from oracle.data.images import Images
from oracle.data.sources import RawImages
from oracle.errors import FolderError, NetworkError
from oracle.execution.executors import BackendChoice, Launch
from oracle.experiment import Experiment, differences
from oracle.networks.pretrained import weights_sha256
from oracle.runs.decisions import Pair
from oracle.runs.records import read_experiment
from oracle.runs.settings import Settings, read_settings
from oracle.search.strategies import Strategy, first_round, named_by
from oracle.storage import Folder, expanded
from oracle.training.backends import Backend, choose_backend, default_device
from oracle.training.checks import check_trainable
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
        return choose_backend(self.network, device) if self.asked == "auto" else self.asked


def prepare(
    experiment: Experiment, launch: Launch, *, folder: Folder | None, strategy: Strategy | None = None
) -> Prepared:
    """Check folder and experiment and load the data, as searching and planning both begin. Raises what they refuse."""
    experiment, strategy = named_by(pinned(experiment), strategy)
    if folder is not None:
        check_folder(folder, experiment)
    raw = read_whole(experiment.data)
    images = load_images(experiment, default_device(), raw)
    seed = experiment.seeds[0]
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


def check_folder(folder: Folder, experiment: Experiment) -> None:
    """Let a folder pass that is new, or whose run this experiment goes on with: the same, more seeds or more cycles.

    FolderError names what else differs.
    """
    if folder.read("experiment.yaml") is None:
        if folder.read("oracle.parquet") is not None:
            raise FolderError(f"{folder.url}: holds oracle.parquet but no experiment.yaml; choose an empty folder")
    else:
        there = read_experiment(folder)
        cycles = min(there.pruning.cycles, experiment.pruning.cycles)
        differ = differences(_comparable(there, cycles), _comparable(experiment, cycles))
        gone = [seed for seed in there.seeds if seed not in experiment.seeds]
        if gone:
            differ.append(
                f"seeds: {list(there.seeds)} there, {list(experiment.seeds)} asked for (more are fine, fewer not)"
            )
        if experiment.pruning.cycles < there.pruning.cycles:
            differ.append(
                f"pruning.cycles: {there.pruning.cycles} there, {cycles} asked for (more are fine, fewer not)"
            )
        if differ:
            raise FolderError(
                f"{folder.url} holds a run of another experiment; choose another folder with --out, or the same "
                "experiment. They differ in\n  " + "\n  ".join(differ)
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


def _comparable(experiment: Experiment, cycles: int) -> dict[str, Any]:
    """An experiment's identity up to a cycle, without what a run may have more of."""
    fields = experiment.identity()
    fields.pop("seeds")
    fields["pruning"].pop("cycles")
    if "peaks" in fields:
        fields["peaks"] = [experiment.candidates(cycle)[0] for cycle in range(cycles + 1)]
    return fields
