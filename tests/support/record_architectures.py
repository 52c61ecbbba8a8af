"""Record what transformers computes for a tiny model of every architecture, for the models of tiny_models.py
and tiny_gpt2.py, and for a flipped router.

`PYTHONPATH=tests python tests/support/record_architectures.py` writes tests/references/architectures.npz,
tiny.npz and router_*.npz. Needs torch and transformers. The tests that use the references do not.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from support.reference_models import FLIPPED, IDS, REFERENCES, random_weights
from support.tiny_gpt2 import GPT2S, tiny_gpt2
from support.tiny_models import CASES, TOKENS, tiny_model, write_folder
from support.torch_models import EIGHT_EXPERTS, MODELS, fifth_best, torch_model

from microgpt_trace.dumps.recorder import record


def model_of(case, folder, changes=None):
    """Write a model with random weights, and return what it is, and the model that transformers reads."""
    torch_model(case, changes).save_pretrained(folder)
    path = folder / "model.safetensors"
    shapes = {name: array.shape for name, array in sorted(load_file(path).items())}
    save_file(random_weights(shapes), path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return (config, shapes), read(folder)


def read(folder):
    """Return the model that transformers reads from a folder."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32,
        output_loading_info=True,
    )  # fmt: skip
    assert not any(report.values()), report
    return model.eval()


def values_of(model, tokens=tuple(IDS), layer=1):
    """Return the residual stream after a layer, and the logits."""
    with torch.no_grad():
        out = model(torch.tensor([tokens]), use_cache=False, output_hidden_states=True)
    stream, logits = out.hidden_states[layer + 1][0].numpy(), out.logits[0].numpy()
    return {f"layer{layer}.mlp.residual": stream, "logits": logits}


def record_tiny(folder):
    """Record the models of tests that compute references by their own formulas."""
    arrays = {}
    for case in (*CASES, *GPT2S):
        config, weights = tiny_gpt2(case) if case in GPT2S else tiny_model(case)
        found = values_of(read(write_folder(folder / case, config, weights)), TOKENS, layer=0)
        arrays |= {f"{case}/{event}": value for event, value in found.items()}
    np.savez_compressed(REFERENCES / "tiny.npz", **arrays)


def main():
    models, arrays = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record_tiny(folder)
        for case in MODELS:
            models[case], model = model_of(case, folder)
            arrays |= {f"{case}/{event}": value for event, value in values_of(model).items()}
        models["eight_experts"], model = model_of("mixtral", folder, EIGHT_EXPERTS)
        arrays |= {f"eight_experts/{event}": value for event, value in values_of(model).items()}
        model = model.to(torch.bfloat16)
        for router in ("right", "wrong"):
            if router == "wrong":
                for layer in model.model.layers[1:]:
                    fifth_best(layer)
            path = folder / f"{router}.safetensors"
            with record(model, path), torch.no_grad():
                model(torch.tensor([FLIPPED]))
            np.savez_compressed(REFERENCES / f"router_{router}.npz", **load_file(path))
    np.savez_compressed(REFERENCES / "architectures.npz", models=json.dumps(models), **arrays)
    size = sum(path.stat().st_size for path in REFERENCES.glob("*.npz"))
    print(f"{len(models)} models; {size / 1024:.0f} KB in all (at most 1 MB)")


if __name__ == "__main__":
    main()
