"""microGPTs of several shapes for tests, and batches for them."""

from dataclasses import dataclass

import numpy as np

from microgpt_trace import Config, Model, Tokenizer
from microgpt_trace.microgpt.batch import Packer
from microgpt_trace.microgpt.parameters import Parameters


def one_name(ids, config, dtype=np.float64):
    """Return a batch of one name, from its ids with both BOS."""
    return Packer(config, dtype).one(np.asarray(ids))


def packed_names(names, config, dtype=np.float64):
    """Return a batch of several names, each as its ids with both BOS."""
    names = sorted(names, key=len)
    tokens, targets = (np.concatenate(own) for own in ([n[:-1] for n in names], [n[1:] for n in names]))
    return Packer(config, dtype).several(tokens, targets, np.array([len(ids) - 1 for ids in names]))


@dataclass(frozen=True)
class Case:
    """A text and a model in float64. Weights are large enough that no operation is nearly linear."""

    model: Model
    text: str

    @property
    def ids(self):
        return np.array(self.model.tokenizer.encode_name(self.text))


def make(config: Config, tokenizer: Tokenizer, text: str, gain: float = 4.0, seed: int = 7) -> Case:
    params = Parameters.random(config, seed, np.float64)
    params.flat *= gain
    return Case(Model(params, tokenizer, f"test, seed {seed}"), text)


CASES = {
    "default": make(Config(), Tokenizer(), "emma"),
    "small weights": make(Config(), Tokenizer(), "", gain=0.05),
    "2 layers, 2 heads": make(
        Config(vocab_size=10, n_embd=12, n_head=2, n_layer=2, block_size=9, n_inner=20),
        Tokenizer("abcdefghi", bos="last"),
        "abbacife",
    ),
    "3 layers, 1 head": make(
        Config(vocab_size=6, n_embd=5, n_head=1, n_layer=3, block_size=4), Tokenizer("lmnop"), "pom"
    ),
}
