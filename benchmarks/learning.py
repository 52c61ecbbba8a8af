"""Compare our held-out loss after 5,000 steps with PyTorch's, over up to five seeds.

Both have the same split, the same names in the same order and the same initial values. Each computes its own
held-out loss: the mean over names of the mean cross-entropy over the positions of a name.
"""

from __future__ import annotations

import numpy as np
from peers import installed
from runs import LR, held_out_rows, new_trainer, rows_of
from table import print_table

from microgpt_trace import Config

STEPS = 5000
SEEDS = range(5)


def our_loss(batch_size: int, seed: int) -> float:
    trainer = new_trainer(Config(), STEPS, batch_size, seed=seed)
    for _ in trainer.run():
        pass
    return trainer.held_out_loss() or float("nan")


def torch_loss(seed: int) -> float:
    """Return the held-out loss of PyTorch at batch size 1."""
    import torch
    from peer_torch import TorchPeer

    trainer = new_trainer(Config(), STEPS, 1, seed=seed)
    peer = TorchPeer(Config(), dict(trainer.params.items()), STEPS, LR)
    peer.train(peer.prepare([rows_of(trainer.batch(step), Config()) for step in range(STEPS)]))
    parts = np.array_split(held_out_rows(), 16)
    with torch.no_grad():
        losses = [peer.loss(*batch).item() for batch in peer.prepare(parts)]
    return float(np.average(losses, weights=[len(part) for part in parts]))


def report(all_seeds: bool) -> None:
    torch_seeds = SEEDS if all_seeds else SEEDS[:1]
    theirs = {seed: torch_loss(seed) for seed in torch_seeds} if installed("PyTorch eager") else {}
    table, one, many = [], [], []
    for seed in SEEDS:
        one.append(our_loss(1, seed))
        many.append(our_loss(32, seed))
        torch = [f"{theirs[seed]:.4f}", f"{one[-1] - theirs[seed]:+.4f}"] if seed in theirs else ["", ""]
        table.append([f"seed {seed}", f"{one[-1]:.4f}", *torch, f"{many[-1]:.4f}"])
    torch = ["", ""]
    if len(theirs) == len(SEEDS):
        mean = np.mean(list(theirs.values()))
        torch = [f"{mean:.4f}", f"{np.mean(one) - mean:+.4f}"]
    table.append(["mean", f"{np.mean(one):.4f}", *torch, f"{np.mean(many):.4f}"])
    header = ["", "ours, batch 1", "PyTorch, batch 1", "difference", "ours, batch 32"]
    print_table(f"Held-out loss after {STEPS:,} steps", header, table)
