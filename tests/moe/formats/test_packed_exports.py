"""What is taken home of a quantised base: its adapter loads in stock PEFT, and merged weights are plain."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig

from moe.disk.headers import read_header
from moe.disk.layout import auto_class, open_storage, read_layout
from moe.experts import Tuning
from moe.export.checkpoint import export_adapter, export_merged, load_adapter, merge_adapter
from moe.inspect.command import describe
from moe.submodel.load import load_full, load_submodel
from moe.tuning.adapters import attach, get_arrays
from moe.tuning.merged_model import MergedModel
from tests.moe.formats.conftest import Quantised, quiet

TUNING = Tuning(method="lora")


def changed_arrays(folder: Path) -> Any:
    torch.manual_seed(3)
    model = attach(load_submodel(folder, {layer: (0, 3) for layer in read_layout(folder).layers}), TUNING)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return get_arrays(model)


def test_merged_weights_are_plain_bfloat16_that_stock_transformers_loads(
    packed: Path, tmp_path: Path
) -> None:
    arrays = changed_arrays(packed)
    export_merged(packed, arrays, TUNING, tmp_path / "merged")
    fields = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "quantization_config" not in json.dumps(fields)
    for file in (tmp_path / "merged").glob("*.safetensors"):
        assert {entry.dtype for entry in read_header(file).values()} <= {"BF16", "F32"}
    with quiet():
        config = AutoConfig.from_pretrained(tmp_path / "merged")
        model = auto_class(config).from_pretrained(tmp_path / "merged", dtype="auto")
    expected = MergedModel(packed, TUNING).set(arrays).model.state_dict()
    assert model.dtype == torch.bfloat16
    assert [
        name for name, value in model.state_dict().items() if not torch.equal(value, expected[name])
    ] == []


def test_merging_nothing_gives_the_dequantised_copy(packed: Path, tmp_path: Path) -> None:
    export_merged(packed, {}, TUNING, tmp_path / "copy")
    expected = load_full(packed).state_dict()
    found = load_full(tmp_path / "copy").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_an_adapter_merges_from_its_file_into_the_same_weights(packed: Path, tmp_path: Path) -> None:
    arrays = changed_arrays(packed)
    export_merged(packed, arrays, TUNING, tmp_path / "merged")
    export_adapter(packed, arrays, TUNING, tmp_path / "adapter")
    merge_adapter(packed, tmp_path / "adapter", tmp_path / "again")
    for file in (tmp_path / "merged").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("family", "form"), [("deepseek_v3", "fp8"), ("gpt_oss", "mxfp4"), ("mixtral", "int4")]
)
def test_the_cards_own_lines_load_the_adapter_in_stock_peft(
    quantised: Quantised, tmp_path: Path, tokens: torch.Tensor, family: str, form: str
) -> None:
    if form == "int4":
        pytest.importorskip("compressed_tensors", reason="transformers needs it to load the base")
    folder = quantised(family, form)
    export_adapter(folder, changed_arrays(folder), TUNING, tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert (
        "Stock PEFT does not add to experts in few bits: it loads the adapter on the dequantised base" in card
    )
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    lines = code[1].replace("<base>", str(folder)).replace("<this folder>", str(tmp_path / "adapter"))
    names: dict[str, Any] = {}
    with quiet():
        exec(lines, names)
    assert isinstance(names["model"], PeftModel)
    ours = load_adapter(folder, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(names["model"].eval()(input_ids=tokens).logits, ours(input_ids=tokens).logits)


def test_the_card_of_a_base_that_transformers_cannot_load_says_so(
    quantised: Quantised, tmp_path: Path
) -> None:
    folder = quantised("mixtral", "nf4")
    export_adapter(folder, changed_arrays(folder), TUNING, tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "transformers does not load its experts" in card
    assert 'from_pretrained("<dequantised copy of <base>>")' in card


def test_inspect_says_format_bits_bytes_and_what_it_becomes(quantised: Quantised) -> None:
    text = describe(open_storage(quantised("gpt_oss", "mxfp4")))
    # 32 numbers of 4 bits and one scale of 8: 4.25.
    assert re.search(
        r"format +mxfp4, blocks of 32: 4\.25 bits a number with its scales, \d+% of the bytes", text
    )
    files = sum(
        entry.stop - entry.start
        for file in quantised("gpt_oss", "mxfp4").glob("*.safetensors")
        for entry in read_header(file).values()
    )
    assert re.search(rf"bytes in the files +{files / 1000:.2f} kB, dequantised to bfloat16 \d+", text)
    assert 'and with model.hold = "file":' in text
