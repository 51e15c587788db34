"""GGUF files: what transformers makes of them, to the bit, and what is refused before anything is read."""

import struct
from pathlib import Path

import gguf
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.gguf_files import FAMILIES, Kind, write_gguf
from moe.disk.layout import open_storage
from moe.disk.shards import open_checkpoint
from moe.disk.tokens import check_tokens, load_tokenizer
from moe.experts import Tuning
from moe.export.checkpoint import export_adapter, fingerprint
from moe.gguf.header import read_gguf_header
from moe.submodel.load import load_full
from tests.moe.formats.conftest import quiet

KINDS = (Kind.F32, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q5_K)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what is made of a file in the test's own folder."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_model_is_that_of_transformers_to_the_bit(tmp_path: Path, family: str, kind: Kind) -> None:
    file = write_gguf(tmp_path, family, kind)
    config = AutoConfig.from_pretrained(open_checkpoint(file).folder)
    del config.quantization_config
    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file=file.name, dtype=torch.bfloat16, config=config
        ).state_dict()
    ours = load_full(file).state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_configuration_and_tokenizer_are_those_of_the_model_that_was_written(
    tmp_path: Path, family: str
) -> None:
    file = write_gguf(tmp_path, family)
    source, ours = AutoConfig.from_pretrained(tmp_path / "source"), open_checkpoint(file).config
    for field in ("hidden_size", "num_hidden_layers", "num_experts_per_tok", "moe_intermediate_size"):
        assert ours.get(field, 64) == getattr(source, field, 64), field
    tokenizer = load_tokenizer(file)
    assert tokenizer.decode(tokenizer("the end")["input_ids"]) == "the end"
    check_tokens(tokenizer, open_storage(file))


def test_the_header_is_what_the_package_gguf_reads(tmp_path: Path) -> None:
    file = write_gguf(tmp_path, "qwen3_moe", Kind.Q4_0)
    header, theirs = read_gguf_header(file), gguf.GGUFReader(file)
    assert header.architecture == "qwen3moe" and header.num_shards == 1
    assert set(header.tensors) == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        ours = header.tensors[tensor.name]
        assert (ours.start, ours.stop - ours.start) == (tensor.data_offset, tensor.n_bytes)
        assert ours.dtype == tensor.tensor_type.name and ours.shape == tensor.data.shape


def test_a_folder_with_one_file_is_that_file_and_what_is_made_of_it_is_made_once(
    tmp_path: Path, home: Path
) -> None:
    file = write_gguf(tmp_path, "qwen3_moe")
    assert open_checkpoint(tmp_path).folder == open_checkpoint(file).folder
    assert fingerprint(tmp_path) == fingerprint(file)
    assert len(list((home / "ems-fl-gguf").iterdir())) == 1
    again = write_gguf(tmp_path, "qwen3_moe", Kind.Q4_0)  # another file under the same name
    assert again == file
    assert len({open_checkpoint(file).folder, *(home / "ems-fl-gguf").iterdir()}) == 2


def test_two_files_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"holds 2 GGUF files \(a\.gguf, b\.gguf\); give the path of one"):
        open_checkpoint(tmp_path)


def test_a_file_beside_a_configuration_is_asked_for_by_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "model-q4_k_m.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_moe"}')
    with pytest.raises(
        ValueError, match=r"no weights but model-q4_k_m\.gguf; give the path of the GGUF file"
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("at", [3, 20, 300, -40])
def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path: Path, at: int) -> None:
    file = write_gguf(tmp_path, "qwen3_moe")
    file.write_bytes(file.read_bytes()[:at])
    with pytest.raises(ValueError, match=r"tiny\.gguf is (cut short|not a GGUF file).*download it again"):
        open_checkpoint(file)


def test_what_no_header_says_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    for words, told in (
        (b"GGML" + bytes(20), "is not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "is GGUF of version 1; 2 and 3 are read"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "is damaged: it says it has"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 50),
            "is cut short within its header",
        ),
    ):
        file.write_bytes(words)
        with pytest.raises(ValueError, match=told):
            open_checkpoint(file)


@pytest.mark.parametrize(
    ("architecture", "split", "told"),
    [
        ("llama", 1, "architecture 'llama', whose experts transformers does not read"),
        ("gpt-oss", 1, "architecture 'gpt-oss', whose experts transformers does not read"),
        ("qwen3moe", 3, "is one of 3 shards, and transformers reads a single file; join them"),
    ],
)
def test_what_transformers_does_not_read_is_refused_with_what_to_use(
    tmp_path: Path, architecture: str, split: int, told: str
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", architecture)
    writer.add_uint16("split.count", split)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match=told):
        open_checkpoint(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("blk.1.ffn_up_exps.weight", "blk.1.ffn_gate_exps.weight has no blk.1.ffn_up_exps.weight beside it"),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
    ],
)
def test_a_tensor_that_is_not_there_is_named(tmp_path: Path, lost: str, told: str) -> None:
    file = write_gguf(tmp_path, "qwen3_moe")
    file.write_bytes(file.read_bytes().replace(lost.encode(), lost.replace("weight", "wedge!").encode()))
    with pytest.raises(ValueError, match=told.replace(".", r"\.")):
        open_storage(file)


def test_a_type_that_nobody_expands_is_named(tmp_path: Path) -> None:
    file = write_gguf(tmp_path, "qwen3_moe", Kind.F32)
    place = file.read_bytes().index(b"blk.0.attn_q.weight") + len("blk.0.attn_q.weight") + 4 + 2 * 8
    content = bytearray(file.read_bytes())
    content[place : place + 4] = struct.pack("<I", int(Kind.Q8_1))
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"attn_q\.weight is in type Q8_1, which the package gguf does not"):
        open_storage(file)


def test_the_card_says_that_the_adapter_is_for_the_dequantised_copy(tmp_path: Path) -> None:
    file = write_gguf(tmp_path, "qwen3_moe")
    export_adapter(file, {}, Tuning(), tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "transformers does not load its experts" in card
