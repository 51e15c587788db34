"""Files whose tensors have other names than the model's, as they are found in the wild."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel

from benchmarks.tiny_models import save_tiny
from moe.disk.layout import open_storage, read_layout
from moe.experts import Tuning
from moe.export.checkpoint import export_merged
from moe.inspect.selftest import check
from moe.submodel.load import load_full
from moe.tuning.adapters import MergedModel, initial_arrays


def test_files_of_the_base_model_alone_are_read_and_written_under_their_own_names(tmp_path: Path) -> None:
    whole = save_tiny(tmp_path / "whole", "mixtral", tie_word_embeddings=True)
    path = tmp_path / "base"
    AutoModel.from_pretrained(whole).save_pretrained(path)
    assert "layers.1.block_sparse_moe.experts.3.w1.weight" in open_storage(path).checkpoint.tensors
    assert check(path).has_passed
    tuning = Tuning(lora_rank=2)
    layout, generator = read_layout(path), np.random.default_rng(0)
    arrays = {
        key: generator.normal(0, 0.1, value.shape).astype(np.float32)
        for key, value in initial_arrays(layout, tuning, layout.experts).items()
    }
    held = MergedModel(whole, tuning).set(arrays).model.state_dict()
    written = load_full(export_merged(path, arrays, tuning, tmp_path / "merged")).state_dict()
    assert all(torch.equal(value, held[name]) for name, value in written.items())
