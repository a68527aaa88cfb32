"""One cycle of digits-mlp on Ray Tune as its tutorials teach it: a function trainable per candidate, all at defaults.

The same 24 rates x 5 seeds, network, batches of 64, epochs, schedule, and evaluation after every epoch as digits-mlp; what
differs is how: a DataLoader, one trial a candidate, one actor a trial.
"""

import tempfile

import torch
import torch.nn.functional as F
from ray import init, tune
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from oracle.experiment import load_experiment
from oracle.training.schedules import learning_rates

EXPERIMENT = load_experiment("digits-mlp")


def train_digits(config: dict[str, float]) -> None:
    """What a reader of the tutorial writes."""
    from sklearn.datasets import load_digits  # in the worker, as the tutorial does

    torch.manual_seed(int(config["seed"]))
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    dataset = TensorDataset(images, torch.tensor(digits.target))
    validation = EXPERIMENT.data.validation
    training_set = Subset(dataset, range(360 + validation, len(dataset)))
    training = DataLoader(training_set, batch_size=EXPERIMENT.training.batch_size, shuffle=True, drop_last=True)
    held_out = DataLoader(Subset(dataset, range(360, 360 + validation)), batch_size=256)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    epochs = EXPERIMENT.training.epochs
    rates = iter(
        learning_rates(EXPERIMENT.schedule, max_lr=config["max_lr"], epochs=epochs, steps_per_epoch=len(training))
    )
    for _ in range(epochs):
        network.train()
        for x, y in training:
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.eval()
        with torch.no_grad():
            correct = sum(int((network(x).argmax(1) == y).sum()) for x, y in held_out)
        tune.report({"val_accuracy": correct / validation})


def main() -> None:
    """Train the cycle."""
    init(address="local", include_dashboard=False)
    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            train_digits,
            param_space={
                "max_lr": tune.grid_search(list(EXPERIMENT.grid.candidates())),
                "seed": tune.grid_search(list(EXPERIMENT.seeds)),
            },
            tune_config=tune.TuneConfig(metric="val_accuracy", mode="max"),
            run_config=tune.RunConfig(storage_path=storage),
        )
        results = tuner.fit()
    print(len(results), "trials, best", results.get_best_result().config)


if __name__ == "__main__":
    main()
