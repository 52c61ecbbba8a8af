"""The order of the files: read from the syntax tree, lazy and type-only imports counted.

Folders are floors and imports go down; no file needs one that needs it, so that any can be imported
first.
"""

import ast
import os
import re
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.commands import process
from support.sweeps import in_sweep

import microgpt_trace
from microgpt_trace.architecture.plans.catalogue import known_rows
from microgpt_trace.cli import COMMANDS
from microgpt_trace.render.shown import SHOWN

PACKAGE = Path(microgpt_trace.__file__).parent

FLOORS = [
    *("text", "ground", "corpus", "arrays", "hooks", "architecture", "vocabulary", "microgpt", "decoder"),
    *("readers", "running", "measuring", "rounding", "tracing", "timeline", "dumps", "comparison"),
    *("diagnosis", "explaining", "attribution", "patching", "surveying", "render", "package", "cli"),
]

# The floors of the modules that stand in no folder.
FLAT = {
    "ground": "errors files grouping interrupt notebook signals untrusted_files",
    "package": "microgpt_trace",
    "cli": "__main__",
}
FLOOR_OF = {module: floor for floor, modules in FLAT.items() for module in modules.split()}

# Results show themselves in a notebook: the one import that goes up to stay, when it is asked for.
SHOWS_ITSELF = ("notebook", "render.notebook_html")

# Files that import our own code inside a function, and the CPU time that this keeps from a start which does
# without it (`trace emma` takes 190 ms): `import_module` of what is imported late, beside what is loaded by
# then, the least of five processes. For the command line see
# `test_a_command_imports_late_what_loads_numpy_or_the_screen`.
LATE = {
    "comparison.compared_runs": "dumps 26 ms where two models are compared",
    "tracing.collector": "parts of events 4 ms where no array is asked for by name",
    "dumps.event_names": "both families 14 ms in a program that is recorded, which is not ours",
    "dumps.formats": "APRT 13 ms, JSON documents 22 ms",
    "readers.loading": "checkpoints 34 ms, .apr 30 ms, GGUF 28 ms, Hugging Face 27 ms: one is asked for",
    "tracing.microgpt_tracing": "gradients and the optimizer 6 ms",
    "tracing.observers": "effects 19 ms where there are no interventions",
    "decoder.model": "readers and vocabularies 19 ms, for one refusal",
    "readers.apr": "a vocabulary 13 ms, which many a file does without",
    "readers.gguf_model": "a vocabulary 15 ms, which many a file does without",
    "readers.huggingface": "a vocabulary 15 ms, which many a folder does without",
    "notebook": "markup 19 ms where there is no notebook",
    "render.documents.schemas": "the schema of a trace 20 ms, which the others do without",
    "render.notebook_html": "a page 55 ms, which only a trace has",
    "render.terminal.printing": "matrices 6 ms where none is shown",
    "tracing.result": "sites 4 ms where no part of an array is asked for",
    "tracing.trace": "a decoder's trace 22 ms of a microGPT",
}


def modules(root):
    """The syntax tree of every module of a package; the package itself goes by its own name."""
    trees = {}
    for path in sorted(root.rglob("*.py")):
        *folders, last = path.relative_to(root).with_suffix("").parts
        name = ".".join(folders if last == "__init__" else [*folders, last]) or root.name
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def nodes(tree, late=True):
    """The nodes of a tree; if not `late` those alone that are run when the module is imported."""
    if late:
        yield from ast.walk(tree)
    elif not isinstance(tree, ast.FunctionDef):
        yield tree
        checked = isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test)
        for child in tree.orelse if checked else ast.iter_child_nodes(tree):
            yield from nodes(child, late)


def imports(name, trees, package="microgpt_trace", late=True):
    """The modules of the package that this one imports anywhere in it, or when it is imported."""
    found = set()
    # a folder's own file is named like the folder, and its relative imports begin inside it
    inside = name == package or any(other.startswith(f"{name}.") for other in trees)
    here = [] if name == package else name.split(".")
    for node in nodes(trees[name], late):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix(f"{package}.") for a in node.names}
        if not isinstance(node, ast.ImportFrom):
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
            whole = f"{target}.{alias.name}" if target else alias.name
            found.add(whole if whole in trees else target or package)
    return (found & set(trees)) - {name}


def graph_of(trees, package="microgpt_trace"):
    return {name: imports(name, trees, package) for name in trees}


def circle(graph):
    """The files of a circle in the order of their imports; none where there is no circle."""
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
def house():
    """The trees of our own modules."""
    return modules(PACKAGE)


@cache
def own_graph():
    """The imports of each of them."""
    graph = graph_of(house())
    graph["cli"] |= {f"cli.{name}" for name in COMMANDS}  # imported by their names
    graph["render.shown"] |= {
        f"render.{name.rpartition('.')[0]}" for shown in SHOWN.values() for name in shown if name
    }
    return graph


def libraries(tree, late=True):
    """The first names of what a module imports from elsewhere."""
    for node in nodes(tree, late):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def imported_late(name):
    """What is imported in functions alone."""
    tree = house()[name]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    own = {name: ast.Module([node for f in functions for node in f.body], [])}
    return imports(name, house() | own) if functions else set()


def loaded_by(name, found=frozenset()):
    """The module and all that importing it imports."""
    if name in found:
        return found
    found |= {name}
    for used in imports(name, house(), late=False):
        found = loaded_by(used, found)
    return found


def is_heavy(name):
    """Whether importing it loads NumPy (70 ms) or what paints a screen (20 ms)."""
    return any(
        {"numpy", "rich", "typer"} & {*libraries(house()[used], late=False)} for used in loaded_by(name)
    )


def test_no_file_needs_one_that_needs_it():
    file, page = SHOWS_ITSELF
    assert circle(own_graph() | {file: own_graph()[file] - {page}}) == []
    assert page in circle(own_graph())  # which alone reaches up to stay


def test_imports_go_down():
    assert wrong_directions(own_graph()) == {SHOWS_ITSELF}


def test_every_file_stands_on_a_floor():
    assert {name for name in house() if "." not in name} == {*FLOOR_OF, *FLOORS} & set(house())
    assert set(FLOOR_OF) <= set(house())


def planted(**sources):
    return graph_of({name.replace("__", "."): ast.parse(text) for name, text in sources.items()}, "house")


def test_a_planted_circle_or_step_up_is_found():
    assert circle(planted(a="from .b import x", b="from .c import x", c="")) == []
    ways = ("from .a import x", "from . import a", "from house.a import x", "import house.a")
    late = ("def f():\n    from .a import x", "if TYPE_CHECKING:\n    from .a import x")
    for back in ways + late:
        assert set(circle(planted(a="from .b import x", b="from .c import x", c=back))) == {"a", "b", "c"}
    assert set(circle(planted(f="from .a import x", f__a="from . import y"))) == {"f", "f.a"}
    graph = planted(f="", f__a="from ..g.b import x", g="", g__b="from .c import x", g__c="from ..f import a")
    assert graph == {"f": set(), "f.a": {"g.b"}, "g": set(), "g.b": {"g.c"}, "g.c": {"f.a"}}
    assert set(circle(graph)) == {"f.a", "g.b", "g.c"}
    graph = {"arrays.stats": {"render.trace"}, "render.trace": {"arrays.stats"}}
    assert wrong_directions(graph) == {("arrays.stats", "render.trace")}
    text = "import a\nif TYPE_CHECKING:\n    import b\nelse:\n    import c\ndef f():\n    import d"
    assert [*libraries(ast.parse(text))] == ["a", "b", "c", "d"]
    assert [*libraries(ast.parse(text), late=False)] == ["a", "c"]


ALONE = """
import importlib, os, sys, traceback
import numpy, typer  # which every other would load again
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
def test_every_module_imports_in_a_process_of_its_own(part):
    """Which finds what only the modules before it had loaded: a part of another package, say."""
    names = [f"microgpt_trace.{name}" for name in house() if name not in ("__main__", "microgpt_trace")]
    assert process(*names[part::6], code=ALONE) == (0, "", "")


def test_a_late_import_is_one_that_was_measured():
    late = {name for name in house() if imported_late(name) and FLOORS[floor(name)] != "cli"}
    assert late == {*LATE}


def test_a_command_imports_late_what_loads_numpy_or_the_screen():
    """--help, which loads every command, takes 160 ms of CPU time; with all that commands import late 580."""
    late = {(name, used) for name in house() if FLOORS[floor(name)] == "cli" for used in imported_late(name)}
    assert {(name, used) for name, used in late if not is_heavy(used)} == set()


# Tokens are cut to what a terminal has for them.
SCREEN = {
    "typer": {"cli"},
    "rich": {"render.terminal", "render.characters"},
    "matplotlib": {"render.figures"},
}


def test_who_knows_the_screen():
    uses = {(library, name) for name, tree in house().items() for library in {*SCREEN} & {*libraries(tree)}}
    assert {library for library, _ in uses} == {*SCREEN}
    known = {library: tuple(f"{place}." for place in places) for library, places in SCREEN.items()}
    assert {use for use in uses if not f"{use[1]}.".startswith(known[use[0]])} == set()


def test_tests_stand_in_the_room_of_what_they_prove():
    """Those of the project as a whole stand at the top; what several rooms' tests share is support/."""
    rooms = {path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")}
    assert rooms - {"support"} <= set(FLOORS)


def test_what_rooms_share_is_imported_by_its_whole_name():
    """By its last name alone it is found where the tests of support/ run too, and nowhere else."""
    here = Path(__file__).parent
    shared = {path.stem for path in (here / "support").glob("*.py")}
    bare = {
        (str(path.relative_to(here)), name)
        for path in here.rglob("*.py")
        if path.parent.name != "support"
        for name in libraries(ast.parse(path.read_text(encoding="utf-8")))
        if name in shared
    }
    assert bare == set()


def test_no_two_files_of_tests_have_one_name():
    """pytest imports them by their names alone."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_module_is_longer_than_a_reader_bears():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > 350} == {}


def first_line(function, with_signature):
    """Where one begins to read it: at its name, or below its signature and docstring."""
    below = function.body[ast.get_docstring(function) is not None :] or function.body
    return function.lineno if with_signature else below[0].lineno


def test_no_function_is_longer_than_a_reader_bears():
    """Those of the command line with their signatures: options stand in groups, not there."""
    lengths = {
        (name, node.name): node.end_lineno - first_line(node, FLOORS[floor(name)] == "cli") + 1
        for name, tree in house().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert {function: length for function, length in lengths.items() if length > 50} == {}


def test_no_two_classes_have_one_name():
    """A leading underscore tells no reader apart what he means."""
    names = [
        node.name.lstrip("_")
        for tree in house().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    assert {name for name in names if names.count(name) > 1} == set()


# --- Events are named by the plans --------------------------------------------------------------

# Where events stand by their names: the plans and the fixed words for events, microGPT's hand-written passes,
# and the tables of foreign names.
NAMES_EVENTS = (
    *("architecture.", "microgpt.forward_backward", "hooks.names"),
    *("dumps.event_names", "dumps.engine_names", "dumps.torch_modules"),
)
OF_THE_OUTPUT = {"logits", "probs", "loss"}  # words of what is printed too


def events_named(tree):
    """The constants of a module that are the name of an event without its layer, however that is written."""
    known = set(known_rows()) - OF_THE_OUTPUT
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = re.sub(r"^(layer[^.]*|\*)?\.", "", node.value)
            if re.sub(r"^(attn\.head)[0-9*]*$", r"\1", name) in known:
                yield node.value


def test_events_are_named_by_the_plans_alone():
    planted = '"attn.q", f"layer{i}.mlp.down", ["layer*.attn.head*", "*.norm", "layer3.attn.residual"]'
    assert len(list(events_named(ast.parse(planted)))) == 4
    assert not list(events_named(ast.parse('("logits", "probs", "attn", "mlp.", "attn_norm")')))
    found = {name: len(list(events_named(tree))) for name, tree in house().items()}
    assert {name: n for name, n in found.items() if n and not name.startswith(NAMES_EVENTS)} == {}
