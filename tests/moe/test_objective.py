"""What a block of tokens asks of a decoder and of an encoder-decoder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM

from benchmarks.tiny_models import save_tiny, tiny_config
from moe.objective import language_model_inputs, language_model_loss, summed_losses
from moe.submodel.load import load_full


def test_a_decoder_predicts_every_next_token(tiny: Callable[[str], Path], tokens: torch.Tensor) -> None:
    model = load_full(tiny("mixtral"))
    logits = model(input_ids=tokens).logits
    expected = cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))
    torch.testing.assert_close(language_model_loss(model, tokens), expected)


def test_an_encoder_decoder_predicts_the_second_half_from_the_first(tokens: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(tiny_config("switch_transformers")).eval()
    first, second = tokens[:, :8], tokens[:, 8:]  # of 17
    # The decoder sees a start token (0 here), then the second half without its last token.
    given = torch.cat([torch.zeros_like(second[:, :1]), second[:, :-1]], dim=1)
    logits = model(input_ids=first, decoder_input_ids=given).logits
    expected = cross_entropy(logits.reshape(-1, logits.shape[-1]), second.reshape(-1))
    torch.testing.assert_close(language_model_loss(model, tokens), expected)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_vl_moe", "switch_transformers"])
def test_the_loss_of_a_model_in_half_precision_is_a_float32(
    tmp_path: Path, tokens: torch.Tensor, family: str
) -> None:
    model = load_full(save_tiny(tmp_path, family, dtype=torch.bfloat16))
    assert language_model_loss(model, tokens).dtype == torch.float32


def test_a_block_too_short_to_predict_anything_is_refused(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="at least 2 tokens"):
        language_model_inputs(load_full(tiny("mixtral")), torch.zeros(3, 1, dtype=torch.long))


@pytest.mark.parametrize("family", ["mixtral", "switch_transformers"])
def test_the_loss_of_each_example_is_its_mean_times_its_tokens(
    tiny: Callable[[str], Path], tokens: torch.Tensor, family: str
) -> None:
    model = load_full(tiny(family))
    predicted, there = torch.zeros_like(tokens), torch.ones_like(tokens)
    for row, count in enumerate([1, 5, 3][: len(tokens)]):
        predicted[row, 12 - count : 12] = 1
    there[:, 12:] = 0
    blocks = torch.stack([tokens, predicted, there], dim=1)
    each = [language_model_loss(model, block[None]).item() * int(block[1].sum()) for block in blocks]
    assert summed_losses(model, blocks.numpy(), batch_size=2) == pytest.approx(each, rel=1e-5)
