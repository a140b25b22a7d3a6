"""The architecture, held by tests."""

import ast
import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from mad_lightning.callbacks.base import LineageCallback, Observers
from mad_lightning.loop.meta_trainer import MetaTrainer

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mad_lightning"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOORS = [*(PACKAGE / "commands").glob("*.py"), PACKAGE / "loop" / "admission.py"]


def run(*command):
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def name_of(path):
    return str(path.relative_to(ROOT))


def docstrings(tree):
    """The nodes that explain, which may say anything."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, kinds)]
    return {id(part.value) for body in bodies for part in body if isinstance(part, ast.Expr)}


def texts(path):
    """Every piece of text in a module that is not an explanation, with its line."""
    tree = ast.parse(path.read_text())
    explained = docstrings(tree)
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in explained:
            yield node.lineno, node.value


# --- size ----------------------------------------------------------------------------------------


def code_lines(function):
    """Lines of a function without its docstring."""
    body = function.body
    said = isinstance(body[0], ast.Expr) and isinstance(getattr(body[0], "value", 0), ast.Constant)
    lines = function.end_lineno - function.lineno + 1
    return lines - (body[0].end_lineno - body[0].lineno + 1 if said else 0)


def test_the_loop_of_the_paper_stays_on_one_screen():
    sources = [inspect.getsource(method) for method in (MetaTrainer.fit, MetaTrainer.generation)]
    assert sum(len(source.splitlines()) for source in sources) < 40


def test_no_function_is_longer_than_a_screen():
    functions = [
        (name_of(path), node.name, code_lines(node))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert len(functions) > 500
    assert [each for each in functions if each[2] > 60] == []


def test_no_file_is_longer_than_560_lines():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > 560} == {}


# --- what lives where ----------------------------------------------------------------------------


@pytest.fixture
def loggers():
    """Lets loggers speak again that the linter's own settings have silenced."""
    yield
    for logger in logging.root.manager.loggerDict.values():
        vars(logger)["disabled"] = False


def test_rooms_import_only_from_floors_below(monkeypatch, capsys, loggers):
    monkeypatch.chdir(ROOT)
    status = lint_imports(no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_no_room_for_odds_and_ends():
    names = {path.stem for path in MODULES}
    assert not names & {"utils", "helpers", "common", "core", "misc", "types"}


def test_every_module_opens_with_its_lesson():
    silent = [
        name_of(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


FILES = re.compile(
    r"lineage\.jsonl|config\.yaml|floor\.json|mix\.json|generator\.ckpt|last\.ckpt|curves\.csv"
    r"|shard\.(json|safetensors)|samples\.png|metrics\.json|seconds\.json|wandb\.json"
    r"|report\.html|generation_(?!\w)|generation_\d"
)


def test_one_room_knows_the_file_names_of_a_lineage():
    home = PACKAGE / "lineage" / "places.py"
    assert sum(bool(FILES.search(text)) for _, text in texts(home)) >= 10
    elsewhere = [
        f"{name_of(path)}:{line}: {text}"
        for path in MODULES
        if path != home and path.parent.name != "commands"  # a door's help shows examples
        for line, text in texts(path)
        if FILES.search(text)
    ]
    assert elsewhere == []


OF_ANOTHER_ROOM = re.compile(
    r"\b(data|policy|generator|evaluator|lineage|trainer|callbacks|grid|axes)\.[a-z_]\w*|--\w"
)


def refusals(path):
    """Every ``Refused(...)`` of a module: its line, and all text in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused":
            parts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            yield node, [part for part in parts if isinstance(part, str)]


def test_a_room_refuses_its_own_parameters_and_a_door_says_where_they_are():
    seen, dotted = 0, []
    for path in MODULES:
        for node, parts in refusals(path):
            seen += 1
            field = [n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)]
            if path in DOORS:
                continue
            if any("." in str(part) for part in field) or any(map(OF_ANOTHER_ROOM.search, parts)):
                dotted.append(f"{name_of(path)}:{node.lineno}: {parts}")
    assert seen > 100
    assert dotted == []


def test_processes_meet_in_one_room():
    home = PACKAGE / "processes.py"
    meets = re.compile(
        r"torch\.distributed|torch import .*distributed|\.all_reduce\(|\.all_gather\("
    )
    assert [path for path in MODULES if meets.search(path.read_text())] == [home]


def test_every_hook_that_is_announced_exists_and_reaches_every_observer():
    public = {name: told for name, told in vars(LineageCallback).items() if name[0] != "_"}
    hooks = {name for name, told in public.items() if callable(told)}
    assert hooks >= {"check", "on_lineage_start", "on_samples_ready", "reason_to_stop"}
    assert hooks <= set(vars(Observers))
    announced = {
        called for path in MODULES for called in re.findall(r"observers\.(\w+)\(", path.read_text())
    }
    assert announced <= set(vars(Observers))
    assert {f"on_{name}" for name in ("generation_start", "generation_end")} <= announced

    told = []

    class Watch(LineageCallback):
        def __getattribute__(self, name):
            if name in hooks:
                told.append(name)
                return lambda *_: None
            return super().__getattribute__(name)

    for hook in sorted(hooks):
        method = getattr(Observers([Watch(), Watch()]), hook)
        method(*[None] * len(inspect.signature(method).parameters))
    assert sorted(told) == sorted([*hooks, *hooks])


# --- what an import costs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("mad_lightning", "torch lightning numpy diffusers wandb yaml"),
        ("mad_lightning.lineage.directory", "torch lightning numpy"),
        ("mad_lightning.policies", "torch lightning numpy"),
        ("mad_lightning.metrics.functional", "lightning torchmetrics scipy sklearn torchvision"),
        ("mad_lightning.theory", "lightning torchmetrics torchvision matplotlib"),
        ("mad_lightning.verdict.growth", "torch lightning"),
        ("mad_lightning.callbacks.wandb", "wandb lightning"),
        ("mad_lightning.loop.meta_trainer", "wandb diffusers normflows timm"),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(imported, absent):
    code = (
        f"import sys, {imported}; heavy = set({absent.split()}) & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


# --- what is promised ----------------------------------------------------------------------------


def test_the_readme_names_what_exists():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:mad_lightning|configs|tests|docs|benchmarks)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    for config in re.findall(r"--config (\S+\.yaml)", text):
        assert (ROOT / config).exists(), config


def test_modules_of_tests_are_told_apart_by_their_names():
    """Where a folder of tests is no package, pytest knows a module by its file's name alone."""
    loose = [
        path.name
        for path in (ROOT / "tests").rglob("test_*.py")
        if not (path.parent / "__init__.py").exists()
    ]
    assert sorted(loose) == sorted(set(loose))
