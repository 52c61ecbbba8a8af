"""Patching as a run for every site: python benchmarks/rerun.py MODEL CLEAN CORRUPT

What `microgpt patch` does in one pass, done without sharing: the peer of its benchmark. Prints the
largest distance of its numbers from those of the one pass.
"""

from __future__ import annotations

import sys

import numpy as np

from microgpt_trace import load, patch
from microgpt_trace.arrays.stats import Array
from microgpt_trace.hooks.event import TraceEvent


def main(path: str, clean: str, corrupt: str) -> None:
    model = load(path)
    known = patch(model, clean, corrupt) if "--compare" in sys.argv else None
    names = ["embed.tok", "layer*.mlp.residual"]
    kept: dict[str, Array] = {}

    def keep(event: TraceEvent, value: Array) -> None:
        kept[event.name] = value.copy()

    inputs = [model.read(text) for text in (clean, corrupt)]
    last = len(inputs[0].tokens) - 1
    with model.hooks.subscribe(keep, *names):
        ends = [model.logits(inputs[0], [last], model.hooks.begin().tap("forward"))[0]]
    ends.append(model.logits(inputs[1], [last])[0])
    target, against = (int(logits.argmax()) for logits in ends)
    high, low = (float(logits[target] - logits[against]) for logits in ends)
    restored = {}
    for name in kept:
        for position in range(last + 1):

            def put(event: TraceEvent, value: Array, row: int = position) -> Array:
                patched = value.copy()
                patched[row] = kept[event.name][row]
                return patched

            with model.hooks.subscribe(put, name):
                logits = model.logits(inputs[1], [last], model.hooks.begin().tap("forward"))[0]
            restored[f"{name}@{position}"] = (float(logits[target] - logits[against]) - low) / (high - low)
    print(f"{len(restored)} sites")
    if known is not None:
        told = {f"{cell.name}@{cell.position}": cell.restored for cell in known.cells}
        assert set(told) == set(restored)
        print(f"largest distance {max(np.abs(told[site] - restored[site]) for site in told):.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
