"""What the demo model is worth: held-out loss per domain, routing shares, and what an assignment captures.

Shapes: D domains, L layers, E experts, B blocks, T tokens.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralForCausalLM

from demo import corpus
from demo.packing import pack


@torch.no_grad()
def mean_loss(model: torch.nn.Module, blocks_BT: Tensor, *, batch_size: int = 64) -> float:
    """Return the mean next-token loss in nats over all blocks."""
    total = 0.0
    for batch_BT in blocks_BT.split(batch_size):
        total += float(model(input_ids=batch_BT, labels=batch_BT).loss) * len(batch_BT)
    return total / len(blocks_BT)


@torch.no_grad()
def routing_shares(
    model: MixtralForCausalLM, blocks_by_domain: Sequence[Tensor], *, batch_size: int = 64
) -> NDArray[np.float64]:
    """Return ``[D, L, E]``: the share of each domain's gate mass that each expert gets; sums to 1 over E."""
    top_k = model.config.num_experts_per_tok
    shares = []
    for blocks_BT in blocks_by_domain:
        mass_LE = torch.zeros(model.config.num_hidden_layers, model.config.num_local_experts)
        for batch_BT in blocks_BT.split(batch_size):
            logits = model(input_ids=batch_BT, output_router_logits=True).router_logits
            for layer, logits_NE in enumerate(logits):
                weights_NK, chosen_NK = logits_NE.softmax(dim=-1).topk(top_k, dim=-1)
                weights_NK = weights_NK / weights_NK.sum(dim=-1, keepdim=True)
                mass_LE[layer].index_add_(0, chosen_NK.flatten(), weights_NK.flatten())
        shares.append(mass_LE / mass_LE.sum(dim=-1, keepdim=True))
    return torch.stack(shares).double().numpy()


def best_capture(shares_DLE: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Give each domain one expert per layer, no expert twice, so that the captured mass is largest.

    Returns
    -------
    NDArray[np.float64], NDArray[np.int64]
        ``[D, L]`` captured shares and ``[D, L]`` expert indices. One expert of E at random gets 1 / E.
    """
    num_domains, num_layers, _ = shares_DLE.shape
    experts_DL = np.zeros((num_domains, num_layers), dtype=np.int64)
    for layer in range(num_layers):
        rows, columns = linear_sum_assignment(shares_DLE[:, layer], maximize=True)
        experts_DL[rows, layer] = columns
    captured_DL = np.take_along_axis(shares_DLE, experts_DL[:, :, None], axis=2)[:, :, 0]
    return captured_DL, experts_DL


def describe(path: Path, *, max_blocks: int = 96) -> str:
    """Measure a checkpoint with one expert per domain on text it was not made from; returns a table."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    texts = corpus.domains()
    blocks = [
        torch.from_numpy(pack(tokenizer, passages, sequence_length=64, max_examples=max_blocks))
        for passages in texts.values()
    ]
    shares_DLE = routing_shares(model, blocks)
    captured_DL, experts_DL = best_capture(shares_DLE)
    lines = [f"{'domain':12} {'loss':>6} {'capture':>8}  experts by layer   routing share by expert"]
    for name, blocks_BT, captured_L, experts_L, shares_LE in zip(
        texts, blocks, captured_DL, experts_DL, shares_DLE, strict=True
    ):
        row = " ".join(f"{share:.2f}" for share in shares_LE.mean(axis=0))
        experts = " ".join(map(str, experts_L))
        loss = mean_loss(model, blocks_BT)
        lines.append(f"{name:12} {loss:6.3f} {captured_L.mean():8.3f}  {experts:17}  {row}")
    lines.append(
        f"mean capture {captured_DL.mean():.3f}, of one expert at random {1 / shares_DLE.shape[2]:.3f}"
    )
    return "\n".join(lines)
