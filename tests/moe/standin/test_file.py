"""Stand-ins on disk, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe.disk.layout import open_storage, read_layout
from moe.standin.file import read_stand_ins, save_stand_ins
from moe.standin.load import build_with_stand_ins, load_with_stand_ins
from moe.standin.stand_in import StandIns


@pytest.fixture
def file(stand_ins: StandIns, tmp_path: Path) -> Path:
    return save_stand_ins(stand_ins, tmp_path / "stand_ins.safetensors")


def test_what_is_read_is_what_was_written_in_as_many_bytes(file: Path, stand_ins: StandIns) -> None:
    read = read_stand_ins(file, base="deep")
    assert read.base == "deep" and read.of_layer.keys() == stand_ins.of_layer.keys()
    for layer, stand_in in read.of_layer.items():
        for name, tensor in stand_in.tensors.items():
            assert torch.equal(tensor, stand_ins.of_layer[layer].tensors[name])
    # Four layers, each a bias, a map of rank 4 and 8 constants of 32 channels, two bytes a number.
    assert read.num_bytes == 4 * 2 * 32 * (1 + 4 + 4 + 8)
    assert 0 < file.stat().st_size - read.num_bytes < 3000
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_no_byte_of_an_expert_is_read(deep: Path, stand_ins: StandIns) -> None:
    storage = open_storage(deep)
    model = build_with_stand_ins(storage, stand_ins)
    assert storage.checkpoint.bytes_read == read_layout(deep).shared_bytes
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_those_of_another_base_are_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"are of the base deep, and this one is other; make its own"):
        read_stand_ins(file, base="other")


def test_a_file_that_is_cut_short_missing_or_of_something_else_is_refused(file: Path) -> None:
    save_file({"layer.0.bias": torch.zeros(2)}, file.with_name("else"))
    with pytest.raises(ValueError, match="holds no stand-ins of this form"):
        read_stand_ins(file.with_name("else"), base="deep")
    with pytest.raises(ValueError, match=r"cannot be read from .*/missing"):
        read_stand_ins(file.with_name("missing"), base="deep")
    for size in (100, file.stat().st_size - 1):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"cannot be read from .*make them again"):
            read_stand_ins(file, base="deep")


def test_parts_that_cannot_be_computed_with_are_named_all_at_once(file: Path) -> None:
    tensors = load_file(file)
    tensors["layer.0.bias"][3] = float("nan")
    tensors["layer.1.out"] = tensors["layer.1.out"].float()
    del tensors["layer.2.into"]
    tensors["layer.x.into"] = torch.zeros(1)
    save_file(tensors, file, {"form": "ems-fl stand-ins 1", "base": "deep"})
    with pytest.raises(ValueError) as caught:
        read_stand_ins(file, base="deep")
    for fault in (
        "layer.0.bias holds numbers that are not finite",
        "layer.1.out is torch.float32, not torch.bfloat16",
        "layer.2.into is missing",
        "layer.x.into is no part of a stand-in",
    ):
        assert fault in str(caught.value)


def test_those_of_other_layers_or_shapes_are_refused(deep: Path, stand_ins: StandIns) -> None:
    some = {layer: stand_in for layer, stand_in in stand_ins.of_layer.items() if layer != 1}
    some[2] = replace(some[2], constant=some[2].constant[:7], into=some[2].into[:, :30])
    with pytest.raises(ValueError) as caught:
        load_with_stand_ins(deep, StandIns(base="deep", of_layer=some))
    for fault in (
        r"they are for layers [0, 2, 3], and [0, 1, 2, 3] need one",
        r"constant of layer 2 is [7, 32], not [8, 32]",
        r"into of layer 2 is [4, 30], not [4, 32]",
    ):
        assert fault in str(caught.value)
