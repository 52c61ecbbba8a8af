"""Check path patching against transformers with hooks, against patches of whole inputs, and by sums."""

import re

import numpy as np
import pytest
from support.commands import microgpt
from support.documents import valid
from support.judges import agree
from support.real_model import needs_smollm2
from support.torch_models import written

from microgpt_trace import Config, Model, Tokenizer, load, patch
from microgpt_trace.errors import InputError
from microgpt_trace.microgpt.parameters import Parameters
from microgpt_trace.patching.patch_results import tables_of

CLEAN, CORRUPT = [17, 3, 44, 3, 60, 0, 29], [17, 3, 8, 3, 60, 0, 29]
OPTIONS = {"target": 7, "against": 11}
MLPS = {  # the event with the output of the MLP
    "llama": "down", "gpt2": "down", "gpt_neox": "down", "gpt_neox_sequential": "down", "gemma2": "down",
    "olmo2": "down", "granite": "down", "smollm3_own": "down", "qwen2_moe": "both", "gpt_oss": "mixture",
}  # fmt: skip


class Judge:
    """A Llama, Qwen or Gemma of transformers, run with hooks. Heads of the model share keys and values."""

    def __init__(self, name, folder):
        self.torch, self.model = pytest.importorskip("torch"), written(name, folder)
        self.layers = self.model.model.layers
        self.dim = self.model.config.head_dim
        self.clean, self.corrupt = self.seen(CLEAN), self.seen(CORRUPT)

    def run(self, tokens, hooks):
        """Run with hooks: (module, function of module, inputs and output that returns a new output)."""
        handles = [module.register_forward_hook(hook) for module, hook in hooks]
        with self.torch.no_grad():
            logits = self.model(self.torch.tensor([tokens])).logits[0, -1].numpy()
        for handle in handles:
            handle.remove()
        return float(logits[OPTIONS["target"]]) - float(logits[OPTIONS["against"]])

    def seen(self, tokens):
        """Return the inputs and outputs of all modules, and the logit difference."""
        seen, names = {}, {module: name for name, module in self.model.named_modules()}

        def keep(module, inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            seen[names[module]] = inputs[0] if inputs else None, output

        wanted = [m for name, m in names_of(self.model) if "layers." in name and name[-9:] != "self_attn"]
        wanted += [self.model.model.norm]
        seen["difference"] = self.run(tokens, [(module, keep) for module in wanted])
        return seen

    def write(self, layer, head, position=None):
        """Return how the residual stream changes if the head writes as in the clean run."""
        name, columns = f"model.layers.{layer}.self_attn.o_proj", self.columns(head)
        change = (self.clean[name][0] - self.corrupt[name][0])[..., columns]
        if position is not None:
            change = change * (self.torch.arange(len(CLEAN)) == position)[:, None]
        change = change @ self.layers[layer].self_attn.o_proj.weight[:, columns].T
        if "Gemma" not in type(self.model).__name__:
            return change
        norm, out = self.layers[layer].post_attention_layernorm, self.corrupt[name][1]
        return norm(out + change) - norm(out)

    def columns(self, head):
        return slice(head * self.dim, (head + 1) * self.dim)

    def attention(self, layer, letter, head, write):
        """Return the difference if one head alone, or all heads, read a changed stream through a matrix."""
        attention = self.layers[layer].self_attn
        stream = self.corrupt[f"model.layers.{layer}.input_layernorm"][0] + write
        product = getattr(attention, f"{letter}_proj")(self.layers[layer].input_layernorm(stream))
        context, columns = {}, slice(None) if head is None else self.columns(head)

        def read_context(module, inputs):
            context["changed"] = inputs[0]

        def put(module, inputs):
            value = inputs[0].clone()
            value[..., columns] = context["changed"][..., columns]
            return (value,)

        projection = getattr(attention, f"{letter}_proj")
        handle = attention.o_proj.register_forward_pre_hook(read_context)
        self.run(CORRUPT, [(projection, lambda module, inputs, output: product)])
        handle.remove()
        handle = attention.o_proj.register_forward_pre_hook(put)
        difference = self.run(CORRUPT, [])
        handle.remove()
        return difference

    def mlp(self, layer, write):
        norm = getattr(
            self.layers[layer], "pre_feedforward_layernorm", self.layers[layer].post_attention_layernorm
        )
        name = next(n for n, module in names_of(self.model) if module is norm)
        changed = self.layers[layer].mlp(norm(self.corrupt[name][0] + write))
        return self.run(CORRUPT, [(self.layers[layer].mlp, lambda module, inputs, output: changed)])

    def logits(self, write):
        norm = self.model.model.norm
        changed = norm(self.corrupt["model.norm"][0] + write)
        return self.run(CORRUPT, [(norm, lambda module, inputs, output: changed)])


def names_of(model):
    return list(model.named_modules())


def differences(model, sender, receiver):
    result = patch(model, CLEAN, CORRUPT, sender=sender, receiver=receiver, **OPTIONS)
    assert result.ok
    return {(cell.site, cell.receiver): cell.difference for cell in result.cells}


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_paths_equal_transformers_with_hooks(name, tmp_path):
    judge = Judge(name, tmp_path)
    with judge.torch.no_grad():
        writes = {f"layer1.attn.head{h}": judge.write(1, h) for h in (0, 3)}
        writes |= {"layer1.attn.head2@2": judge.write(1, 2, position=2)}
        expected = {}
        for sender, write in writes.items():
            for letter in "qkv":
                for head in (0, 1):
                    receiver = f"layer3.attn.head{head}.{letter}"
                    expected[sender, receiver] = judge.attention(3, letter, head, write)
                expected[sender, f"layer2.attn.{letter}"] = judge.attention(2, letter, None, write)
            for layer in (1, 3):
                expected[sender, f"layer{layer}.mlp"] = judge.mlp(layer, write)
            expected[sender, "logits"] = judge.logits(write)
    found = differences(load(tmp_path), list(writes), list(dict.fromkeys(r for _, r in expected)))
    assert set(found) == set(expected)
    low, span = judge.corrupt["difference"], judge.clean["difference"] - judge.corrupt["difference"]
    for path, value in expected.items():
        agree(found[path], value, rtol=1e-4, atol=1e-4, what=" to ".join(path))
    moved = [abs(value - low) for value in expected.values()]
    print(f"{len(moved)} paths move the difference by up to {max(moved):.3g} of {abs(span):.3g}")
    assert sorted(moved)[len(moved) // 2] > 3e-3  # most effects are far above the tolerance
    shared = [[expected[sender, f"layer3.attn.head{h}.k"] for sender in writes] for h in (0, 1)]
    assert np.ptp(shared, axis=0).max() > 1e-3  # the heads share keys, and each head has its own effect


@pytest.mark.parametrize("name", MLPS)
def test_the_whole_stream_into_a_receiver_is_a_patch_of_the_whole_input(name, tmp_path):
    written(name, tmp_path)
    model = load(tmp_path)
    stream, dim, last = model.plan.streams[2], model.config.head_dim, model.plan.streams[-1]
    between = stream if name == "gpt_neox" else "layer2.attn.residual"
    q = "layer2.attn.q_norm" if name == "olmo2" else "layer2.attn.q"  # olmo2 norms all heads together
    sites = {(stream, f"layer2.attn.{letter}"): f"layer2.attn.{letter}[:,:]" for letter in "qkv"}
    sites[stream, "layer2.attn.head1.q"] = f"{q}[:,{dim}:{2 * dim}]"
    sites[between, "layer2.mlp"] = f"layer2.mlp.{MLPS[name]}[:,:]"
    sites[last, "logits"] = f"{last}[:,:]"
    patched = patch(model, CLEAN, CORRUPT, sites=list(sites.values()), **OPTIONS)
    expected = {cell.site: cell.difference for cell in patched.cells}
    for path, site in sites.items():
        found = differences(model, *path)[path]
        agree(found, expected[site], rtol=1e-4, atol=1e-4, what=" to ".join(path))
    agree(found, patched.clean.difference, rtol=1e-5, atol=1e-5, what="everything into the logits")


def test_the_direct_effects_of_a_microgpt_add_up():
    config = Config(n_layer=2)
    model = Model(Parameters.random(config, 1, np.float64), Tokenizer(), "seed 1")
    senders = ["embed.norm", "layer*.attn.head*", "layer*.mlp.down"]
    result = patch(model, "lara", "eira", target="n", against="EOS", sender=senders, receiver="logits")
    total = sum(cell.restored for cell in result.cells)
    print(f"{len(result.cells)} direct effects add up to {total}")
    assert len(result.cells) == 1 + 2 * 5
    agree(total, 1.0, rtol=1e-9)
    assert result.matrix.tolist() == [[cell.restored] for cell in result.cells]  # [senders, 1]
    heads = patch(model, "lara", "eira", target="n", against="EOS", sender=senders[1], receiver="logits")
    assert heads.matrix.shape == (2 * 4, 1)
    assert len(tables_of(heads.cells)[0].rows) == 2  # the table has a row for each layer


def test_a_glob_leaves_out_what_has_no_path(decoders):
    model = decoders("llama_gqa")[0]
    found = differences(model, ["layer*.attn.head1", "embed.tok"], "layer*.mlp")
    heads = [("layer0.attn.head1", "layer0.mlp"), ("layer0.attn.head1", "layer1.mlp")]
    embedding = [("embed.tok", f"layer{layer}.mlp") for layer in (0, 1)]
    assert list(found) == [*embedding, *heads, ("layer1.attn.head1", "layer1.mlp")]
    result = patch(model, CLEAN, CORRUPT, sender="layer*.attn.head1", receiver="layer*.mlp", **OPTIONS)
    assert np.isnan(result.matrix).tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize(
    ("sender", "receiver", "message"),
    [
        (
            "layer1.attn.head0",
            "layer1.attn.head1.q",
            "layer1.attn.head1.q does not come after layer1.attn.head0",
        ),
        ("layer1.mlp.down@2", "layer0.mlp", "layer0.mlp does not come after layer1.mlp.down@2"),
        ("layer0.attn.q", "logits", "layer0.attn.q does not write to the residual stream"),
        ("layer0.attn.head1", "layer1.attn.head9.q", "'layer1.attn.head9.q' matches no receiver, such as"),
        ("layer0.attn.head1", (), "a path needs both"),
    ],
)
def test_a_path_that_does_not_exist_is_refused(decoders, sender, receiver, message):
    with pytest.raises(InputError, match=re.escape(message)):
        patch(decoders("llama_gqa")[0], CLEAN, CORRUPT, sender=sender, receiver=receiver)


def test_paths_have_no_sites_and_no_estimates(decoders):
    for option in ({"sites": ["embed.tok"]}, {"method": "attribution"}):
        with pytest.raises(InputError, match="a path needs both, no sites"):
            patch(decoders("llama_gqa")[0], CLEAN, CORRUPT, sender="embed.tok", receiver="logits", **option)


def test_the_command(decoder_folder, tmp_path):
    line = f"patch {decoder_folder('qwen3')} 'Ann ran' 'Ann sat' --target a --against n"
    one = f"{line} --sender 'layer0.attn.head*' --receiver layer1.attn.head1.v"
    document = valid(microgpt(f"{one} --json").out, "patch")
    assert [cell["receiver"] for cell in document["cells"]] == ["layer1.attn.head1.v"] * 4
    out = microgpt(one).out
    assert "Restored by paths  to layer1.attn.head1.v" in out
    assert "layer0.attn.head3" in out
    page = tmp_path / "paths.html"
    out = microgpt(
        f"{line} --sender 'layer*.mlp.down' --receiver 'layer1.*' --receiver logits --html {page}"
    ).out
    for words in (
        "Restored by paths  rows: senders, columns: receivers",
        "head3",
        "–: the receiver does not come after the sender",
    ):
        assert words in out
    assert "layer0.mlp.down to layer1.attn.head1.q" in page.read_text()


@needs_smollm2
def test_smollm2_moves_the_country_by_the_values_of_a_head(smollm2):
    texts = "The capital of France is", "The capital of Italy is"
    receivers = [f"layer23.attn.head4.{letter}" for letter in "qkv"]
    result = patch(smollm2, *texts, sender=["layer22.mlp.residual", "layer0.mlp.down"], receiver=receivers)
    shares = result.matrix
    print(shares)
    assert shares[:, :2].max() < 0.02  # queries and keys
    assert shares[1, 2] > 0.9
    assert 0.6 < shares[0, 2] < 0.7  # the MLP of layer 0 writes most of what this head moves
