"""Find the examples of a page that need files or names which an example that cannot run would make."""

import ast
import shlex
from collections.abc import Callable
from itertools import pairwise

from support.pages import Example

WRITES = {"--html", "--imatrix", "--log", "--out", "--plot", "--save", "--save-aprt"}


def needs_and_makes(example: Example) -> tuple[set[str], set[str]]:
    """Return the files and names of Python that an example needs, and those that it may make. A string that
    Python code passes to a function may be either. Files in a folder count as the folder."""
    if example.language == "console":
        words = [word.partition("/")[0] for word in shlex.split(example.text)]
        made = {word for option, word in pairwise(words) if option in WRITES}
        return set(words) - made, made
    nodes = list(ast.walk(ast.parse(example.text)))
    arguments = [argument for node in nodes if isinstance(node, ast.Call) for argument in node.args]
    starts = [text.values[0] if isinstance(text, ast.JoinedStr) else text for text in arguments]
    files = {
        text.value.partition("/")[0]
        for text in starts
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    }
    names = [(node.id, isinstance(node.ctx, ast.Load)) for node in nodes if isinstance(node, ast.Name)]
    made = {name for name, is_read in names if not is_read}
    made |= {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    return files | {name for name, is_read in names if is_read} - made, files | made


def that_run(examples: list[Example], can_run: Callable[[Example], bool], files=()) -> list[Example]:
    """Return the examples that can run and need no file or name that only an example left out would make.
    `files` are there from the start."""
    there, missing, result = set(files), set(), []
    for example in examples:
        needs, makes = needs_and_makes(example)
        if can_run(example) and not needs & missing:
            there |= makes
            missing -= makes
            result.append(example)
        else:
            missing |= makes - there
    return result
