"""The shape of the package: which module may know which, and what no module may do."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import hftl

ROOT = Path(hftl.__file__).parent
FLOORS = {
    0: (
        "audio.backend",
        "certainty",
        "choice",
        "detections",
        "errors",
        "hub",
        "meter",
        "metrics",
        "probabilities",
        "quiet",
        "recipe",
        "records",
        "wording",
    ),
    1: ("display", "samples"),
    2: ("data", "model", "runtime"),
    3: ("audio", "image", "text"),
    4: ("tasks",),
    5: ("checkpoint", "predictor", "prepare", "report", "run_folder"),
    6: ("features",),
    7: ("trainer",),
    8: ("__main__", "cli"),
}
"""A module imports from its own floor or from lower ones. A folder stands for all in it that is not named itself."""

PUBLIC = "__init__"
"""``hftl/__init__.py`` imports from all floors, lazily, and nothing inside the package imports it."""

MODALITY_WORDS = {"image", "text", "audio", "pixel", "token", "tokenizer", "sound", "spectrogram", "wave", "waveform"}
MODALITY_WORDS |= {"recording", "mel", "photo", "question"}
MODALITY_WORDS |= {f"{word}s" for word in MODALITY_WORDS}
STRINGS = {"text", "texts", "token", "tokens"}
"""What a table's strings and the parts of a file's name are called, too, where rows are read: in ``data``."""
WITHOUT_MODALITY = (
    "checkpoint",
    "choice",
    "data",
    "features",
    "model.last_layer",
    "model.solver",
    "predictor",
    "prepare",
)
WITHOUT_MODALITY += ("recipe.defaults", "trainer")
"""Modules, or rooms, that serve every modality alike."""
NOT_A_MODALITY = {"write_text", "read_text", "size_text", "clock_text"}
"""Of ``pathlib``, this package's like of it, a number of bytes in words, and a time."""


@dataclass(frozen=True)
class Import:
    """That ``module`` (dotted, without ``hftl.``) imports ``target`` (with all its dots)."""

    module: str
    target: str
    line: int
    at_module_level: bool


def sources() -> dict[str, Path]:
    """Dotted names of all modules, ``hftl.`` left out."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


MODULES = sources()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imports_of(module: str, types: bool = False) -> Iterator[Import]:
    """Every import of a module; those for type checkers alone only with ``types``."""

    def visit(node: ast.AST, at_module_level: bool) -> Iterator[Import]:
        if not types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in node.orelse:
                yield from visit(child, at_module_level)
            return
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno, at_module_level) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = full.removeprefix("hftl.") in MODULES
                yield Import(module, full if is_module else str(node.module), node.lineno, at_module_level)
        inside = at_module_level and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(TREES[module], True)


def floor(module: str) -> int:
    """The floor on which a module is.

    >>> floor("data.batches")
    2
    """
    named = {name: number for number, names in FLOORS.items() for name in names}
    return named[module] if module in named else named[module.partition(".")[0]]


def inner_imports(module: str, types: bool = False) -> list[Import]:
    """The imports from this package, ``hftl.`` left out of their targets."""
    return [
        Import(found.module, found.target.removeprefix("hftl").removeprefix("."), found.line, found.at_module_level)
        for found in imports_of(module, types)
        if found.target.partition(".")[0] == "hftl"
    ]


def room_of(module: str) -> str:
    """The folder that a module is in, or at the top of the package the module itself.

    >>> room_of("tasks.parts.losses")
    'tasks'
    """
    return module if module == "audio.backend" else module.partition(".")[0]


def package_names(module: str) -> set[str]:
    return {found.target.partition(".")[0] for found in imports_of(module)}


def test_every_module_is_on_one_floor():
    declared = [name for names in FLOORS.values() for name in names]
    assert len(declared) == len(set(declared))
    rooms = {name for name in declared if "." not in name}
    assert {module.partition(".")[0] for module in MODULES} - {PUBLIC} == rooms
    assert set(declared) - rooms <= set(MODULES)


@pytest.mark.parametrize("module", [name for name in MODULES if name != PUBLIC])
def test_imports_point_down(module):
    for found in inner_imports(module, types=True):
        assert found.target, f"{module}:{found.line}: imports the package itself; import its module"
        assert floor(found.target) <= floor(module), f"{module}:{found.line}: {found.target} is on a higher floor"


def test_imports_are_seen_wherever_they_stand():
    assert Import("tasks.parts.classification", "model.heads", 0, False) in {
        Import(found.module, found.target, 0, found.at_module_level)
        for found in inner_imports("tasks.parts.classification")
    }
    assert "data.sources" in {found.target for found in inner_imports("tasks.parts.classification")}
    assert "trainer" in {found.target for found in inner_imports("cli.commands")}
    assert "torch" not in package_names("tasks.base")  # for type checkers alone


def test_no_circles():
    needs = {
        module: {found.target for found in inner_imports(module) if found.at_module_level and found.target != module}
        for module in MODULES
    }
    left = dict(needs)
    while left:  # take away what needs nothing that is left
        free = [module for module, targets in left.items() if not targets & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        for module in free:
            del left[module]


def test_no_circles_of_rooms():
    """Not even for types: who reads a room need not know those above it."""
    needs: dict[str, set[str]] = {room_of(module): set() for module in MODULES if module != PUBLIC}
    for module in MODULES:
        if module != PUBLIC:
            needs[room_of(module)] |= {room_of(found.target) for found in inner_imports(module, types=True)}
    left = {room: targets - {room} for room, targets in needs.items()}
    while left:
        free = [room for room, targets in left.items() if not targets & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        for room in free:
            del left[room]


def test_no_module_is_hidden():
    """A module that begins with an underscore hides from its room's list: what it is for is a room of its own."""
    assert [module for module in MODULES if any(re.match(r"_[^_]", part) for part in module.split("."))] == []


def test_only_the_runtime_knows_accelerate():
    assert [module for module in MODULES if "accelerate" in package_names(module)] == ["runtime.runtime"]


@pytest.mark.parametrize("module", [name for name in MODULES if name.partition(".")[0] == "tasks"])
def test_tasks_import_torch_and_transformers_in_functions_only(module):
    heavy = {"torch", "transformers", "datasets", "PIL"}
    early = {found.target.partition(".")[0] for found in imports_of(module) if found.at_module_level}
    assert not early & heavy


# -- words -----------------------------------------------------------------------------------------------------------


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of the nodes that document something: strings that stand alone."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def words_of_code(tree: ast.AST) -> set[tuple[str, int]]:
    """Lower-case words of all names and strings in code, docstrings left out, with their lines."""
    documented, found = docstrings(tree), set()
    for node in ast.walk(tree):
        said = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            said = [node.value]
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str) and value not in NOT_A_MODALITY:
                said.append(value)
        for text in said:
            found |= {(word.lower(), getattr(node, "lineno", 0)) for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)}
    return found


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m in WITHOUT_MODALITY or m.partition(".")[0] in WITHOUT_MODALITY]
)
def test_the_machinery_names_no_modality(module):
    words = MODALITY_WORDS - STRINGS if room_of(module) == "data" else MODALITY_WORDS
    assert {(word, line) for word, line in words_of_code(TREES[module]) if word in words} == set()


def test_words_are_seen_wherever_they_stand():
    code = "from a.image_b import C\ndef f(x):\n  'text'\n  return x.audioFile(pixel=1) + 'two Tokens' + f'{x} texts'\n"
    words = {word for word, _ in words_of_code(ast.parse(code))}
    assert words & MODALITY_WORDS == {"image", "audio", "pixel", "tokens", "texts"}
    assert {word for word, _ in words_of_code(TREES["tasks.image_classification"])} >= {"image", "images"}


# -- documentation and size ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_what_is_public_is_documented(module):
    def undocumented(node: ast.AST, path: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if child.name.startswith("_"):
                    continue
                if not ast.get_docstring(child):
                    yield f"{path}{child.name}"
                if isinstance(child, ast.ClassDef):
                    yield from undocumented(child, f"{path}{child.name}.")

    assert ast.get_docstring(TREES[module]), "the module itself"
    assert list(undocumented(TREES[module], "")) == []


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_longer_than_500_lines(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 500


# -- help is fast ----------------------------------------------------------------------------------------------------

HEAVY = ("torch", "transformers", "datasets", "accelerate")


def loaded_after(code: str) -> list[str]:
    """Which of the heavy packages a fresh Python has imported after ``code``."""
    asked = f"import sys\n{code}\nprint('loaded', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "code",
    [
        "import hftl",
        "from hftl import HftlError, Phase, Recipe, strategies",
        "from hftl.tasks import AudioClassification, ImageClassification, QuestionAnswering, TextClassification",
        "from hftl.cli import main; main(['--help'])",
        "from hftl.cli import main; main([])",
    ],
)
def test_help_imports_nothing_heavy(code):
    assert loaded_after(code) == []


def test_what_is_heavy_is_seen():
    assert loaded_after("from hftl import Trainer") == list(HEAVY)


def test_the_package_offers_what_it_says():
    assert {name: getattr(hftl, name).__name__.rpartition(".")[2] for name in hftl.__all__} == {
        name: name for name in hftl.__all__
    }
    with pytest.raises(AttributeError, match="Trainner"):
        _ = hftl.Trainner
