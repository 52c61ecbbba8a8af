"""Train the small model of this package and write it to a file: python docs/small_model.py FILE

On another machine, rounding may lead to other parameters, but the held-out loss stays within 0.005 of 2.111.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from microgpt_trace import Config, Model, init, save, train

CONFIG = Config(vocab_size=27, n_embd=20, n_head=5)
SEED = 607


def small_model() -> Model:
    """Return the model of the recipe, without Adam's moments, which are only needed to train on."""
    model = train(init(CONFIG, seed=SEED), steps=12_000, batch_size=16, lr=0.005, seed=SEED)
    assert model.training is not None
    return replace(model, training=replace(model.training, moments=None))


if __name__ == "__main__":
    save(small_model(), sys.argv[1])
