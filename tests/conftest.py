"""What tests share: a tiny experiment that trains in milliseconds, and the data that may be at hand."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from oracle.experiment import Experiment, load_experiment
from silo_fit import cli

CIFAR10 = Path(__file__).parents[2] / "shared" / "data" / "cifar10"  # image Parquet, beside a developer's checkout

TINY = (
    "pruning.cycles=2",
    "training.epochs=3",
    "training.batch_size=256",
    "grid={spacing: explicit, values: [0.02, 0.1, 0.4]}",
    "seeds=[0, 1]",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side (-n 2), tests that start a cluster take turns: two at once would wait for each other's cores."""
    for item in items:
        if item.path.name == "test_ray.py" or re.search(r"\bray\b", item.name):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> Callable[..., Experiment]:
    """digits-mlp cut down to 3 epochs, 3 rates, 2 seeds and 2 cycles; more overrides may follow."""
    return lambda *overrides: load_experiment("digits-mlp", overrides=[*TINY, *overrides])


@pytest.fixture
def silo_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """Run `silo-fit` in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["silo-fit", *map(str, arguments)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def cifar10_parquet() -> Path:
    """A folder of CIFAR-10 image Parquet; tests that need it are skipped where it is absent."""
    if not CIFAR10.is_dir():
        pytest.skip("real CIFAR-10 image Parquet is not beside this checkout")
    return CIFAR10
