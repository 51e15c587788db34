"""Words: what each cluster's model says after a held-out beginning, before and after tuning."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moe.experts import ExpertArrays
from moe.half_precision import half_products
from moe.objective import is_encoder_decoder, token_batch
from server.ems_fl_run import Outcome
from server.evaluate import Evaluator
from server.job import Job
from server.record.scene import Completion

BEGINNING_TOKENS, NEW_TOKENS = 24, 24
"""At most half of a held-out block is the beginning."""
MOST_CLUSTERS = 16


def completions(job: Job, outcome: Outcome, evaluator: Evaluator) -> tuple[Completion, ...]:
    """Return ``report.completions`` greedy completions of each of the first clusters.

    By the cluster's own sub-model; by the merged model where there are none, as with FedAvg. Nothing for
    encoder-decoders, whose beginnings are another task.
    """
    count = job.config.report.completions
    found: list[Completion] = []
    for cluster in job.clusters[:MOST_CLUSTERS] if count else ():
        blocks = evaluator.heldout(cluster)[:count]
        length = min(BEGINNING_TOKENS, blocks.shape[1] // 2)
        beginnings, rest = blocks[:, :length], blocks[:, length : length + NEW_TOKENS]
        said = []
        for values in (job.initial, outcome.values):
            model = _model(outcome, evaluator, cluster, values)
            if is_encoder_decoder(model):
                return ()
            said.append(greedy(_last_logits(model), beginnings, rest.shape[1]))
        found += [
            Completion(cluster=cluster, **{name: evaluator.text(tokens) for name, tokens in row.items()})
            for row in (
                dict(zip(("beginning", "original", "before", "after"), of_one, strict=True))
                for of_one in zip(beginnings, rest, *said, strict=True)
            )
        ]
    return tuple(found)


def _model(outcome: Outcome, evaluator: Evaluator, cluster: str, values: ExpertArrays) -> nn.Module:
    if outcome.assignment is None:
        return evaluator.merged_with(values)
    return evaluator.submodel_with(outcome.assignment.experts.get(cluster, ()), values)


def _last_logits(model: nn.Module) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    @torch.no_grad()
    def last(tokens_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        model.eval()
        with half_products(model):
            logits = model(input_ids=token_batch(model, tokens_BT), use_cache=False).logits
        return cast(NDArray[np.float32], logits[:, -1].float().cpu().numpy())

    return last


def greedy(
    last_logits: Callable[[NDArray[np.int64]], NDArray[np.float32]], tokens_BT: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return the ``count`` most likely next tokens after each row, one at a time.

    No cache of keys: not every family's works under a sub-model, and these are few tokens.

    Parameters
    ----------
    last_logits : callable
        Token ids ``[B, T]`` -> logits ``[B, V]`` of the next token.
    """
    tokens = tokens_BT
    for _ in range(count):
        tokens = np.concatenate([tokens, last_logits(tokens).argmax(-1)[:, None].astype(np.int64)], axis=1)
    return tokens[:, tokens_BT.shape[1] :]
