"""What is refused before anything is trained: flags, experiments that cannot run, folders of another run."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from oracle.data.images import Images
from oracle.errors import ExperimentError, FolderError, NetworkError
from oracle.execution.worker import Settings
from oracle.experiment import Experiment, differences
from oracle.networks.pretrained import weights_sha256
from oracle.pruning import next_masks
from oracle.runs.tables import read_experiment
from oracle.storage import Folder, expanded
from oracle.training.parents import first_parent, parent_network
from oracle.training.schedules import learning_rates
from oracle.training.train import check_backend, check_rewind_step


def check_choice(name: str, found: str, allowed: Sequence[str]) -> None:
    """Raises ExperimentError for what is not allowed."""
    if found not in allowed:
        raise ExperimentError(f"{name}: expected one of {', '.join(allowed)}, found {found!r}")


def check_flags(*, executor: str, address: str | None, backend: str, slots: int | None, pack_size: int | None) -> None:
    """Raises ExperimentError where one of them is none of what `run_oracle` takes."""
    check_choice("executor", executor, ("ray", "local"))
    if executor == "local" and address is not None:
        raise ExperimentError(f"address: found {address}, but the local executor trains in this process; leave one out")
    check_backend(backend)
    for name, count in (("slots", slots), ("pack_size", pack_size)):
        if count is not None and not (type(count) is int and count >= 1):
            raise ExperimentError(f"{name}: expected a whole number from 1 on, or None, found {count!r}")


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
    if pruning.method == "global_gradient":
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


def read_settings(folder: Folder) -> Settings | None:
    """How the folder's run is computed; None where it has not begun. FolderError where its file cannot be read."""
    content = folder.read("settings.json")
    try:
        return None if content is None else Settings.from_json(content)
    except (ValueError, TypeError) as error:
        raise FolderError(
            f"{folder / 'settings.json'}: cannot be read ({error}). It holds how this run is computed; delete it to have "
            "that chosen anew: what is finished stays, the last digits of what follows may differ"
        ) from None


def check_settings(folder: Folder, settings: Settings, *, backend: str, device: str, pack_size: int | None) -> None:
    """FolderError where the folder's run was begun in another way than is asked for now."""
    wrong = []
    if settings.device != device:
        wrong.append(f"device: {settings.device} there, {device} here")
    if backend not in {"auto", settings.backend}:
        wrong.append(f"backend: {settings.backend} there, {backend} asked for")
    if pack_size not in {None, settings.pack_size}:
        wrong.append(f"pack size: {settings.pack_size} there, {pack_size} asked for")
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
