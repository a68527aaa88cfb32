"""What is refused before anything is trained: experiments that cannot run, folders of another run."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from oracle.data import load_images, read_whole
from oracle.data.images import Images
from oracle.data.sources import RawImages
from oracle.errors import ExperimentError, FolderError, NetworkError
from oracle.execution.executors import Asked, Launch
from oracle.experiment import Experiment, differences
from oracle.networks.pretrained import weights_sha256
from oracle.pruning import find_method, next_masks
from oracle.runs.records import read_experiment
from oracle.runs.settings import Settings, read_settings
from oracle.search.strategies import Strategy, named_by
from oracle.storage import Folder, expanded
from oracle.training.backends import Backend, choose_backend, default_device
from oracle.training.parents import first_parent, fresh_network, parent_network
from oracle.training.run import check_rewind_step
from oracle.training.schedules import learning_rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An experiment that can be run here: its data loaded, all that can be refused beforehand looked at."""

    experiment: Experiment  # with absolute paths, and the strategy's name
    strategy: Strategy
    raw: RawImages | None  # the data as stored; None for a folder of images
    images: Images  # on this machine's device
    network: nn.Module
    begun: Settings | None  # how the folder's run is computed, if it has begun
    asked: Asked

    def backend(self, device: str) -> Backend:
        """As the run was begun, as was asked, or the one that suits network and device."""
        if self.begun is not None:
            return self.begun.backend
        return choose_backend(self.network, device) if self.asked == "auto" else self.asked


def prepare(
    experiment: Experiment, launch: Launch, *, folder: Folder | None, strategy: Strategy | None = None
) -> Prepared:
    """Load the data and check experiment and folder, as searching and planning both begin. Raises what they refuse."""
    experiment, strategy = named_by(pinned(experiment), strategy)
    raw = read_whole(experiment.data)
    images = load_images(experiment, default_device(), raw)
    check_experiment(experiment, images)
    if folder is not None:
        check_folder(folder, experiment)
    return Prepared(
        experiment=experiment,
        strategy=strategy,
        raw=raw,
        images=images,
        network=fresh_network(experiment, images, experiment.seeds[0]),
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
        path = str(expanded(network.weights).absolute())
        found = weights_sha256(path)
        if network.weights_sha256 not in {None, found}:
            raise NetworkError(
                f"network.weights: {path} has the SHA-256 {found}, expected network.weights_sha256 "
                f"{network.weights_sha256}"
            )
        network = network.model_copy(update={"weights": path, "weights_sha256": found})
    return experiment.model_copy(update={"data": data, "network": network})


def check_experiment(experiment: Experiment, images: Images) -> None:
    """Refuse before training what would fail in it: a network that does not fit the images, schedules, batches,
    a pruning method that is not known or not for this network."""
    steps_per_epoch = images.num_train // experiment.training.batch_size
    check_rewind_step(experiment, steps_per_epoch)
    epochs = experiment.training.epochs
    for max_lr in {rate for cycle in range(experiment.pruning.cycles + 1) for rate in experiment.candidates(cycle)}:
        learning_rates(experiment.schedule, max_lr=max_lr, epochs=epochs, steps_per_epoch=steps_per_epoch)
    seed, pruning = experiment.seeds[0], experiment.pruning
    network = parent_network(experiment, seed, images, first_parent(experiment, seed, images))
    batch = None
    if find_method(pruning.method).needs_batch:
        pixels, labels = images.sample(pruning.batch, seed)
        batch = pixels[:2].cpu(), labels[:2].cpu()  # enough to see that it works
        _check_batch_of_one("pruning.batch", pruning.batch, network, images)
    _check_batch_of_one("training.batch_size", experiment.training.batch_size, network, images)
    next_masks(network, None, method=pruning.method, rate=pruning.rate, batch=batch, prune_output=pruning.prune_output)


def _check_batch_of_one(key: str, size: int, network: nn.Module, images: Images) -> None:
    """A batch norm has nothing to normalise by where it sees one image of one pixel."""
    if size > 1:
        return
    pixels, _ = images.sample(1, 0)
    try:
        network.cpu().train()(pixels.cpu())
    except ValueError as error:
        raise ExperimentError(
            f"{key}: found 1, but this network's batch norms need at least 2 images: {error}"
        ) from None


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
