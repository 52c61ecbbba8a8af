"""The order of modules, read from their syntax trees. Late and type-only imports count too.

Folders are floors, and imports go down. Imports have no cycles, so that any module can be imported first.
"""

import ast
import os
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.commands import process
from support.sweeps import in_sweep

import microgpt_trace
from microgpt_trace.cli import COMMANDS
from microgpt_trace.decoder.catalogue import ARCHITECTURES, known_rows
from microgpt_trace.operations.by_kind import ARITHMETIC
from microgpt_trace.render.documents.schemas import RESULTS
from microgpt_trace.render.shown import SHOWN

PACKAGE = Path(microgpt_trace.__file__).parent
TOP_LEVEL = (
    ".ci .github .gitignore CHANGELOG.md CONTRIBUTING.md LICENSE Makefile README.md benchmarks docs "
    "microgpt_trace names.txt pyproject.toml tests"
)

FLOORS = [
    *("text", "ground", "corpus", "arrays", "hooks", "plans", "models", "formulas", "operations"),
    *("interpreter", "vocabulary", "microgpt", "decoder", "readers", "selection", "interventions"),
    *("measuring", "rounding", "weights", "tracing", "timeline", "naming", "dumps", "comparison"),
    *("diagnosis", "explaining", "patching", "attribution", "certification", "surveying", "render"),
    *("package", "cli"),
]

# The floors of modules outside folders.
FLAT = {
    "ground": "argument_types errors files grouping interrupt notebook progress signals untrusted_files",
    "package": "microgpt_trace",
    "cli": "__main__",
}
FLOOR_OF = {module: floor for floor, modules in FLAT.items() for module in modules.split()}

# Modules that import our own code inside a function, and what this saves in CPU time: the time of
# `import_module` if the modules are compiled and the other modules of the command are loaded. For the command
# line see `test_a_command_imports_late_only_what_loads_numpy_or_the_screen`.
LATE = {
    "microgpt_trace": "NumPy, which `import microgpt_trace` must not load",
    "tracing.trace": "NumPy, which --help must not load",
    "render.documents.schemas": "NumPy, which --help must not load",
    "readers.loading": "the four readers 16 ms of `trace emma`, which needs none but that of checkpoints",
    "microgpt.model": "the passes of training 1 ms of `trace emma`",
    "tracing.observers": "effects of interventions 2 ms of `trace emma`",
    "tracing.traced_run": "training 13 ms of a trace of SmolLM2, those for prompts 8 ms of `trace emma`",
}


def modules(root):
    """Return the syntax tree of every module of a package. The package itself has its own name."""
    trees = {}
    for path in sorted(root.rglob("*.py")):
        *folders, last = path.relative_to(root).with_suffix("").parts
        name = ".".join(folders if last == "__init__" else [*folders, last]) or root.name
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


@cache
def import_statements(tree, late=True):
    """Return the imports of a tree, or without `late` only those that run when the module is imported."""
    if isinstance(tree, ast.Import | ast.ImportFrom):
        return [tree]
    if isinstance(tree, ast.expr) or (isinstance(tree, ast.FunctionDef) and not late):
        return []
    checked = not late and isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test)
    children = tree.orelse if checked else ast.iter_child_nodes(tree)
    return [found for child in children for found in import_statements(child, late)]


def imports(name, trees, package="microgpt_trace", late=True):
    """Return the modules of the package that a module imports, or without `late` only at its own import."""
    names = set()
    # an __init__.py has the name of its folder, and its relative imports start inside the folder
    inside = name == package or any(other.startswith(f"{name}.") for other in trees)
    here = [] if name == package else name.split(".")
    for node in import_statements(trees[name], late):
        if isinstance(node, ast.Import):
            names |= {a.name.removeprefix(f"{package}.") for a in node.names}
            continue
        start = node.module.split(".") if node.module else []
        if node.level:
            above = node.level - inside
            start = here[: len(here) - above] + start
        elif start[0] == package:
            start = start[1:]
        else:
            continue
        target = ".".join(start)
        for alias in node.names:
            full_name = f"{target}.{alias.name}" if target else alias.name
            names.add(full_name if full_name in trees else target or package)
    return (names & set(trees)) - {name}


def graph_of(trees, package="microgpt_trace"):
    return {name: imports(name, trees, package) for name in trees}


def cycle(graph):
    """Return the modules of an import cycle in order, or an empty list."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def floor(module):
    folder = module.partition(".")[0]
    return FLOORS.index(FLOOR_OF.get(module, folder))


def wrong_directions(graph):
    return {(file, used) for file in graph for used in graph[file] if floor(file) < floor(used)}


@cache
def our_trees():
    """Return the syntax trees of our modules."""
    return modules(PACKAGE)


@cache
def own_graph():
    """Return the imports of each of our modules."""
    graph = graph_of(our_trees())
    # these modules import others by name
    graph["cli"] |= {f"cli.{name}" for name in COMMANDS}
    graph["decoder.catalogue"] |= {f"decoder.architectures.{name}" for name in ARCHITECTURES.values()}
    graph["operations.by_kind"] |= {f"operations.{name}" for name in ARITHMETIC.values()}
    graph["render.documents.schemas"] |= {module for _, module, _ in RESULTS.values()}
    graph["render.shown"] |= {
        f"render.{name.rpartition('.')[0]}" for names in SHOWN.values() for name in names if name
    }
    assert set().union(*graph.values()) <= set(graph)
    return graph


def levels(graph):
    """Return the imports among the modules and folders of each folder. A folder counts as one module."""
    found = defaultdict(lambda: defaultdict(set))
    for file, used in graph.items():
        for ways in (list(zip(file.split("."), other.split("."), strict=False)) for other in used):
            same = next((depth for depth, (a, b) in enumerate(ways) if a != b), None)
            if same is not None:  # otherwise a folder imports its own module
                a, b = ways[same]
                found[".".join(a for a, _ in ways[:same])][a].add(b)
    return found


def libraries(tree, late=True):
    """Yield the top-level names of other packages that a module imports."""
    for node in import_statements(tree, late):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif not node.level:
            yield node.module.partition(".")[0]


def imported_late(name):
    """Return the modules that a module imports only inside functions."""
    tree = our_trees()[name]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    bodies = {name: ast.Module([node for f in functions for node in f.body], [])}
    return imports(name, our_trees() | bodies) if functions else set()


def loaded_by(name, seen=frozenset()):
    """Return a module and all modules that its import loads."""
    if name in seen:
        return seen
    seen |= {name}
    for used in imports(name, our_trees(), late=False):
        seen = loaded_by(used, seen)
    return seen


def is_heavy(name):
    """Return True if the import of a module loads NumPy (70 ms), or Rich or Typer (20 ms)."""
    return any(
        {"numpy", "rich", "typer"} & {*libraries(our_trees()[used], late=False)} for used in loaded_by(name)
    )


def test_imports_have_no_cycle():
    assert cycle(own_graph()) == []


def test_imports_of_folders_have_no_cycle():
    """Two folders without a cycle of modules can still import each other."""
    assert {folder: found for folder, graph in levels(own_graph()).items() if (found := cycle(graph))} == {}
    graph = planted(f__a="from ..g.b import x", g__b="", g__c="from ..f.d import x", f__d="")
    assert cycle(graph) == []
    assert set(cycle(levels(graph)[""])) == {"f", "g"}


def test_imports_go_down():
    assert wrong_directions(own_graph()) == set()


def test_every_module_has_a_floor():
    assert {name for name in our_trees() if "." not in name} == {*FLOOR_OF, *FLOORS} & set(our_trees())
    assert set(FLOOR_OF) <= set(our_trees())


def planted(**sources):
    return graph_of({name.replace("__", "."): ast.parse(text) for name, text in sources.items()}, "house")


def test_finds_a_planted_cycle_or_import_upwards():
    assert cycle(planted(a="from .b import x", b="from .c import x", c="")) == []
    ways = ("from .a import x", "from . import a", "from house.a import x", "import house.a")
    late = ("def f():\n    from .a import x", "if TYPE_CHECKING:\n    from .a import x")
    for back in ways + late:
        assert set(cycle(planted(a="from .b import x", b="from .c import x", c=back))) == {"a", "b", "c"}
    assert set(cycle(planted(f="from .a import x", f__a="from . import y"))) == {"f", "f.a"}
    graph = planted(f="", f__a="from ..g.b import x", g="", g__b="from .c import x", g__c="from ..f import a")
    assert graph == {"f": set(), "f.a": {"g.b"}, "g": set(), "g.b": {"g.c"}, "g.c": {"f.a"}}
    assert set(cycle(graph)) == {"f.a", "g.b", "g.c"}
    graph = {"arrays.stats": {"render.trace"}, "render.trace": {"arrays.stats"}}
    assert wrong_directions(graph) == {("arrays.stats", "render.trace")}
    text = "import a\nif TYPE_CHECKING:\n    import b\nelse:\n    import c\ndef f():\n    import d"
    assert [*libraries(ast.parse(text))] == ["a", "b", "c", "d"]
    assert [*libraries(ast.parse(text), late=False)] == ["a", "c"]


ALONE = """
import importlib, os, sys, traceback
import numpy, typer  # loaded once for all
for name in sys.argv[1:]:
    if os.fork() == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(name)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("part", [in_sweep(0), *(in_sweep(part, whole=True) for part in range(1, 6))])
def test_every_module_can_be_imported_first(part):
    """Finds modules that use something, such as a part of another package, that only other modules import."""
    names = [f"microgpt_trace.{name}" for name in our_trees() if name not in ("__main__", "microgpt_trace")]
    assert process(*names[part::6], code=ALONE) == (0, "", "")


def test_the_list_of_late_imports_is_complete():
    late = {name for name in our_trees() if FLOORS[floor(name)] != "cli" and imported_late(name)}
    assert late == {*LATE}


def test_a_command_imports_late_only_what_loads_numpy_or_the_screen():
    """--help loads every command. It takes 160 ms of CPU time, and without late imports 580 ms."""
    commands = [name for name in our_trees() if FLOORS[floor(name)] == "cli"]
    assert [(name, used) for name in commands for used in imported_late(name) if not is_heavy(used)] == []


# The modules that may import each library. render.characters measures the width of tokens.
SCREEN = {
    "typer": {"cli"}, "rich": {"render.terminal", "render.characters"}, "matplotlib": {"render.figures"},
}  # fmt: skip


def test_only_some_modules_import_the_libraries_of_the_screen():
    trees = our_trees().items()
    uses = {(library, name) for name, tree in trees for library in {*SCREEN} & {*libraries(tree)}}
    assert {library for library, _ in uses} == {*SCREEN}
    allowed = {library: tuple(f"{place}." for place in places) for library, places in SCREEN.items()}
    assert {use for use in uses if not f"{use[1]}.".startswith(allowed[use[0]])} == set()


def test_folders_of_tests_have_the_names_of_floors():
    """Tests of the whole project are in tests/ itself, and shared helpers are in support/."""
    folders = {path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")}
    assert folders - {"support"} <= set(FLOORS)


def test_names_of_test_files_are_unique():
    """pytest imports a file by its name, without its folder."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_top_level_has_only_these_files():
    if shutil.which("git") is None or not (PACKAGE.parent / ".git").exists():
        pytest.skip("the files of a commit are known only in a clone")
    done = subprocess.run(["git", "ls-files"], cwd=PACKAGE.parent, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"git: {done.stderr}")
    tops = {name.split("/")[0] for name in done.stdout.splitlines()}
    assert tops == {*TOP_LEVEL.split()}


def test_no_module_is_longer_than_350_lines():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > 350} == {}


def first_line(function, with_signature):
    """Return the line of a function's name, or the first line below its signature and docstring."""
    below = function.body[ast.get_docstring(function) is not None :] or function.body
    return function.lineno if with_signature else below[0].lineno


def test_no_function_is_longer_than_50_lines():
    """Signatures count only in the command line, whose options belong into groups."""
    lengths = {
        (name, node.name): node.end_lineno - first_line(node, FLOORS[floor(name)] == "cli") + 1
        for name, tree in our_trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert {function: length for function, length in lengths.items() if length > 50} == {}


def test_names_of_classes_are_unique():
    """A leading underscore does not make a name unique."""
    names = [
        node.name.lstrip("_")
        for tree in our_trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    assert {name for name in names if names.count(name) > 1} == set()


CHECK = re.compile(r"(settings|weights|vocabulary|template|predictions)\.[a-z_]*")


def test_only_certification_names_the_checks_of_a_certificate():
    below = [tree for name, tree in our_trees().items() if floor(name) < FLOORS.index("certification")]
    texts = (node.value for tree in below for node in ast.walk(tree) if isinstance(node, ast.Constant))
    assert [text for text in texts if isinstance(text, str) and CHECK.fullmatch(text)] == []


# Modules that may have names of events: the plans, the words for events, the hand-written passes of microGPT,
# and the tables of names in other engines.
NAMES_EVENTS = (
    *("plans.", "decoder.architectures.", "decoder.layered_plan", "microgpt.forward_backward", "hooks.names"),
    *("naming.event_names", "naming.engine_names", "naming.torch_modules", "dumps.recorder"),
)
OF_THE_OUTPUT = {"logits", "probs", "loss"}  # other modules use these as plain words


def events_named(tree):
    """Yield the strings of a module that are names of events, with any or no layer in front."""
    names = set(known_rows()) - OF_THE_OUTPUT
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = re.sub(r"^(layer[^.]*|\*)?\.", "", node.value)
            if re.sub(r"^(attn\.head)[0-9*]*$", r"\1", name) in names:
                yield node.value


def test_only_the_plans_name_events():
    planted = '"attn.q", f"layer{i}.mlp.down", ["layer*.attn.head*", "*.norm", "layer3.attn.residual"]'
    assert len(list(events_named(ast.parse(planted)))) == 4
    assert not list(events_named(ast.parse('("logits", "probs", "attn", "mlp.", "attn_norm")')))
    counts = {name: len(list(events_named(tree))) for name, tree in our_trees().items()}
    assert {name: n for name, n in counts.items() if n and not name.startswith(NAMES_EVENTS)} == {}
