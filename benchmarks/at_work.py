"""SILO at work: replay, compare, tune and the sparse Oracle on digits-mlp, and on CIFAR-10 where it is at hand.

`python -m benchmarks.at_work FOLDER [--data CIFAR10]`: everything is trained below FOLDER by the commands themselves, and
what they print is kept under results/. Stopped, it goes on; what is there is not trained twice.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tree import machine

RESULTS = Path(__file__).parent / "results"
PICTURES = {"digits-replay/replay.png": "replay-digits-mlp.png", "fc-replay/replay.png": "replay-fc-cifar10-small.png"}
PICTURES |= {"digits-compare/compare.png": "compare-digits-mlp.png"}
TUNED = "eps=0.0631,delta=0.1338"  # close to what `tune` says below
DIGITS: Sequence[tuple[str, str]] = (
    ("search", "oracle search digits-mlp --out digits"),
    ("replay, ten fresh seeds", "silo-fit replay digits --seeds 10"),
    ("tune", "silo-fit tune digits-mlp --out digits-tune"),
    (
        "compare, ten fresh seeds; SILO: fits the Oracle, SILO 2: the tuned one, SILO 3: that with q 3, beta 4",
        f"silo-fit compare digits-mlp --curve digits --curve {TUNED} --curve {TUNED},q=3,beta=4 --autolrs --seeds 10 "
        "--out digits-compare",
    ),
    ("sparse, named cycles", "silo-fit sparse digits-mlp --cycles 0,3,4,6,10 --out digits-sparse --against digits"),
    ("sparse, auto", "silo-fit sparse digits-mlp --out digits-auto --against digits"),
    (
        "sparse, named cycles, adaptive within",
        "silo-fit sparse digits-mlp --cycles 0,3,4,6,10 --set search.strategy=adaptive --out digits-sparse-adaptive "
        "--against digits",
    ),
    (
        "sparse, auto, adaptive within",
        "silo-fit sparse digits-mlp --set search.strategy=adaptive --out digits-auto-adaptive --against digits",
    ),
)
CIFAR: Sequence[tuple[str, str]] = (
    ("search", "oracle search fc-cifar10-small --out fc"),
    ("replay, five fresh seeds", "silo-fit replay fc --seeds 5"),
    ("sparse, named cycles", "silo-fit sparse fc-cifar10-small --cycles 0,2,4 --out fc-sparse --against fc"),
    (
        "sparse, auto, adaptive within",
        "silo-fit sparse fc-cifar10-small --set search.strategy=adaptive --out fc-auto-adaptive --against fc",
    ),
)


def main() -> None:
    """Run all, and keep what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="CIFAR-10")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    lines = ["# SILO at work", "", f"{machine()}; `--executor local`. Made by `python -m benchmarks.at_work`.", ""]
    for name, commands in (("digits-mlp", DIGITS), ("fc-cifar10-small on CIFAR-10", CIFAR)):
        if commands is CIFAR and given.data is None:
            continue
        lines += [f"## {name}", ""]
        data = f"--data {given.data.absolute()}" if commands is CIFAR else ""
        for title, command in commands:
            said = _run(f"{command} --executor local {data}", given.folder)
            if title != "search":
                lines += [f"**{title}**", "", f"    $ {command}", *(f"    {line}".rstrip() for line in said), ""]
    (RESULTS / "at-work.md").write_text("\n".join(lines))
    for source, target in PICTURES.items():
        if (given.folder / source).exists():
            (RESULTS / target).write_bytes((given.folder / source).read_bytes())


def _run(command: str, folder: Path) -> list[str]:
    """What a command prints, without the paths of this machine."""
    print(command, file=sys.stderr)
    tool, *arguments = command.split()
    path = Path(sys.executable).with_name(tool)
    done = subprocess.run([path, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.replace(f"{folder.absolute()}/", "").splitlines()


if __name__ == "__main__":
    main()
