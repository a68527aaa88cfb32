"""Who imports whom: read from the source, lazy imports and `if TYPE_CHECKING` included, and from fresh interpreters."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("search_spaces", "oracle", "silo_fit")  # each imports only itself and those before it

# The floors of oracle/, from the ground up: a file imports from floors below its own, and from its own.
FLOORS = [
    {"errors"},
    {"events", "rng", "storage"},
    {"experiment"},
    {"data", "networks"},
    {"pruning"},
    {"training"},
    {"runs"},
    {"execution"},
    {"analysis"},
    {"search"},
    {"view"},
    {"chain", "diagnostics", "intervals", "records", "theory"},  # doors: a few lines, for those who import from outside
    {"cli", "__main__"},
]

RAY = {"oracle.execution.ray_tune"}
# Files that open others: the one place, and those that read what people's data and machines hold.
OPENERS = {
    "oracle.storage",
    "oracle.data.decode",  # images
    "oracle.data.memory",  # what Linux tells of free memory, below /proc and /sys
    "oracle.experiment.loading",  # the presets, which come with the package
    "oracle.execution.guard",  # a process of its own, which imports nothing of ours
    "oracle.execution.ray_tune",  # Ray's note of the cluster that runs on this machine
    "silo_fit.tables",  # the paper's tables, which come with the package
    "silo_fit.report",  # the page's template, the same
}
OPENING = {
    "open",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "save_file",
    "load_file",
    "open_input_stream",
}
OPENING |= {"open_output_stream", "open_append_stream", "open_input_file", "mkdir", "unlink", "rmtree", "savefig"}
UNPICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def source_files() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


FILES = dict(source_files())
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module that a file names in an import, wherever it stands; `from a import b` as a.b where that is a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import on line {node.lineno}"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else str(node.module)


IMPORTS = {module: set(imported(tree)) for module, tree in TREES.items()}
OWN = {module: {name for name in names if name.split(".")[0] in PACKAGES} for module, names in IMPORTS.items()}


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_walk_finds_lazy_and_type_checking_imports():
    text = "if TYPE_CHECKING:\n    import a\ndef f():\n    from oracle import errors\n    from b.c import d\n"
    assert set(imported(ast.parse(text))) == {"a", "oracle.errors", "b.c"}


def test_every_own_import_is_of_a_file_that_is_there():
    assert {name for names in OWN.values() for name in names} <= set(FILES)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_leftwards(package):
    allowed = PACKAGES[: PACKAGES.index(package) + 1]
    wrong = [
        f"{module} imports {name}"
        for module in FILES
        if module.split(".")[0] == package
        for name in OWN[module]
        if name.split(".")[0] not in allowed
    ]
    assert not wrong


def floor(module: str) -> int:
    """The floor of a file of oracle/; -1 for the package itself, which imports nothing."""
    room = module.split(".")[1] if "." in module else None
    return -1 if room is None else next(height for height, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_of_oracle_has_its_floor():
    there = {module.split(".")[1] for module in FILES if module.startswith("oracle.")}
    assert sorted(there) == sorted(room for rooms in FLOORS for room in rooms)


def test_files_of_oracle_import_only_from_their_floor_and_below():
    wrong = [
        f"{module} imports {name}, which is above it"
        for module in FILES
        if module.startswith("oracle")
        for name in OWN[module]
        if name.startswith("oracle") and floor(name) > floor(module)
    ]
    assert not wrong


def test_doors_hold_no_code():
    doors = next(rooms for rooms in FLOORS if "chain" in rooms)
    for door in doors:
        kinds = {type(node) for node in TREES[f"oracle.{door}"].body}
        assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, door


def test_no_circles():
    graphlib.TopologicalSorter(OWN).prepare()  # raises CycleError, naming the circle


def test_no_import_is_hidden_from_this_test():
    calls = [ast.unparse(n.func) for tree in TREES.values() for n in ast.walk(tree) if isinstance(n, ast.Call)]
    assert not {"__import__", "exec", "eval", "import_module", "importlib.import_module"} & set(calls)


def test_files_are_opened_in_one_place():
    called = {
        module: {
            name.split(".")[-1] for n in ast.walk(tree) if isinstance(n, ast.Call) for name in [ast.unparse(n.func)]
        }
        for module, tree in TREES.items()
    }
    to_memory = {"oracle.view.plots"}
    assert {module for module, names in called.items() if names & OPENING} - OPENERS == to_memory


def test_ray_is_imported_in_its_one_place():
    assert {module for module, names in IMPORTS.items() if any(n.split(".")[0] == "ray" for n in names)} == RAY


def test_optuna_is_imported_in_silo_fit_alone():
    users = {module for module, names in IMPORTS.items() if any(n.split(".")[0] == "optuna" for n in names)}
    assert users
    assert {module.split(".")[0] for module in users} == {"silo_fit"}


def test_the_oracle_never_hears_of_silo():
    assert not [module for module in OWN if module.startswith("oracle") and "search_spaces.silo" in OWN[module]]


def test_nothing_is_unpickled():
    assert not {m: names & UNPICKLERS for m, names in IMPORTS.items() if {n.split(".")[0] for n in names} & UNPICKLERS}
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in {"torch", "numpy", "pandas"}:
                assert not {"load", "read_pickle"} & {alias.name for alias in node.names}, module
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                called = ast.unparse(node.func)
                assert node.func.attr != "read_pickle", module
                assert keywords.get("allow_pickle", "False") == "False", module
                if called == "torch.load":
                    assert keywords.get("weights_only") == "True", f"{module} line {node.lineno}"


def test_packages_load_nothing_heavy():
    heavy = ("torch", "ray", "optuna", "sklearn", "torchvision", "matplotlib", "pandas")
    code = f"import sys, search_spaces, oracle, silo_fit; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code) == "[]"


@pytest.mark.slow
def test_the_chain_and_training_need_neither_ray_nor_optuna():
    # None in sys.modules makes any import of that name an ImportError.
    code = "import sys; sys.modules['ray'] = sys.modules['optuna'] = None; import oracle.search.chain, oracle.training"
    assert run_python(code + "; print('torch' in sys.modules)") == "True"


def test_fitting_loads_neither_torch_nor_ray():
    code = "import sys, silo_fit.fit, oracle.errors; print([name for name in ('torch', 'ray') if name in sys.modules])"
    assert run_python(code) == "[]"
