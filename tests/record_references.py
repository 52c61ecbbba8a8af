"""Record what transformers computes in float32 for every tiny model: `python tests/record_references.py`.

Writes tests/references/CASE.npz, arrays under this project's event names. Needs torch and
transformers; the tests that use the references do not.
"""

import math
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from judges_decoder import decoder_events
from tiny_models import CASES, TOKENS, tiny_model, write_folder
from transformers.masking_utils import eager_mask
from transformers.models.llama import modeling_llama

REFERENCES = Path(__file__).with_name("references")

# a module's output, as an event of its layer
OUTPUTS = {
    "input_layernorm": "attn.norm",
    "self_attn.q_proj": "attn.q",
    "self_attn.k_proj": "attn.k",
    "self_attn.v_proj": "attn.v",
    "self_attn.q_norm": "attn.q_norm",
    "self_attn.k_norm": "attn.k_norm",
    "self_attn.o_proj": "attn.out",
    "post_attention_layernorm": "mlp.norm",
    "mlp.gate_proj": "mlp.gate",
    "mlp.act_fn": "mlp.act",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.down",
    "": "mlp.residual",
}
# a module's input
INPUTS = {
    "self_attn.o_proj": "attn.context",
    "post_attention_layernorm": "attn.residual",
    "mlp.down_proj": "mlp.hidden",
}
WHOLE = {"model.embed_tokens": "embed.tok", "model.norm": "final.norm", "lm_head": "logits"}


def rows(tensor):
    """[1, T, ...] -> [T, all the rest]"""
    return tensor.detach().reshape(tensor.shape[1], -1).numpy().copy()


def record_modules(model, events):
    """Hook every module whose output or input is an event."""

    def keep(name, tensor):
        events[name] = rows(tensor[0] if isinstance(tensor, tuple) else tensor)

    for name, module in model.named_modules():
        layer = re.fullmatch(r"model\.layers\.(\d+)\.?(.*)", name)
        output = f"layer{layer[1]}.{OUTPUTS.get(layer[2])}" if layer else WHOLE.get(name)
        if output and not output.endswith("None"):
            module.register_forward_hook(lambda _m, _x, y, output=output: keep(output, y))
        if layer and layer[2] in INPUTS:
            event = f"layer{layer[1]}.{INPUTS[layer[2]]}"
            module.register_forward_pre_hook(lambda _m, x, event=event: keep(event, x))


def record_attention(events):
    """An attention for transformers: its eager one, with what goes in and comes out of it kept."""

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        at = f"layer{module.layer_idx}.attn."
        events[at + "q_rope"], events[at + "k_rope"] = rows(query.transpose(1, 2)), rows(key.transpose(1, 2))
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        assert math.isclose(scaling, query.shape[-1] ** -0.5)
        events[at + "scores"] = (query @ keys.mT * scaling)[0].numpy()
        out, weights = modeling_llama.eager_attention_forward(
            module, query, key, value, attention_mask, scaling, **kwargs
        )
        events[at + "weights"] = weights[0].numpy()
        return out, weights

    transformers.AttentionInterface.register("recorded", attention)
    transformers.AttentionMaskInterface.register("recorded", eager_mask)


def recorded(config, weights, tokens):
    """Every event of a run, float32. The model is read from a folder as any other would be."""
    events = {}
    record_attention(events)
    with tempfile.TemporaryDirectory() as folder:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            write_folder(Path(folder), config, weights),
            attn_implementation="recorded",
            dtype=torch.float32,
            output_loading_info=True,
        )
    assert not any(report.values()), report
    record_modules(model.eval(), events)
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits
    events["probs"] = rows(logits.softmax(-1))
    return events


def main():
    REFERENCES.mkdir(exist_ok=True)
    for case in sys.argv[1:] or CASES:
        config, weights = tiny_model(case)
        events = recorded(config, weights, TOKENS)
        judged = decoder_events(config, weights, TOKENS)
        assert events.keys() == judged.keys(), events.keys() ^ judged.keys()
        off = max(np.linalg.norm(events[n] - judged[n]) / np.linalg.norm(judged[n]) for n in judged)
        path = REFERENCES / f"{case}.npz"
        np.savez_compressed(path, ids=np.array(TOKENS), **{name: events[name] for name in judged})
        print(f"{case:28} {path.stat().st_size / 1024:5.1f} KB, from the formulas in float64: {off:.1e}")


if __name__ == "__main__":
    main()
