"""Every field of ``config.json``: read, absent where it is null, or refused by name and value in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from benchmarks.tiny_models import save_tiny
from moe.disk.layout import read_layout
from moe.experts import ExpertId, Tuning
from moe.export.checkpoint import export_merged
from moe.inspect.command import main
from moe.submodel.load import load_full, load_submodel
from moe.tuning.adapters import initial_arrays

Tiny = Callable[..., Path]


@pytest.fixture
def base(tiny: Tiny, tmp_path: Path) -> Path:
    """Return a copy of a sound checkpoint, to be changed."""
    return Path(shutil.copytree(tiny("mixtral"), tmp_path / "base"))


def fields_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def put(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(fields_of(folder) | changes))
    return folder


@pytest.mark.parametrize(
    "field, value, told",
    [
        ("hidden_size", "x", "hidden_size = 'x' must be int, got str"),
        ("hidden_size", [1], r"hidden_size = \[1\] must be int, got list"),
        ("hidden_size", True, "hidden_size = True must be int, got bool"),
        ("hidden_size", -1, "hidden_size = -1 in config.json, with which .* cannot build .* mixtral"),
        ("head_dim", 1.5, "head_dim = 1.5 must be int or null, got float"),
        ("num_key_value_heads", 0, "num_key_value_heads = 0 in config.json, with which"),
        ("hidden_act", "x", r"hidden_act = 'x' in config.json, with which .*\(KeyError: 'x'\)"),
        ("hidden_act", {}, r"hidden_act = \{\} must be str, got dict"),
        ("pad_token_id", 10**9, "pad_token_id = 1000000000 in config.json, with which"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps = nan is no finite number"),
        ("router_jitter_noise", float("inf"), "router_jitter_noise = inf is no finite number"),
        (
            "rope_parameters",
            {"rope_theta": "x", "rope_type": "default"},
            "rope_theta = 'x' in config",
        ),
        ("rope_parameters", {"rope_theta": 0, "rope_type": "default"}, "rope_theta = 0 must be > 0"),
        (
            "rope_parameters",
            {"rope_theta": 1e4, "rope_type": "no"},
            "rope_type = 'no' in config",
        ),
        ("num_hidden_layers", 10**9, r"num_hidden_layers = 1000000000 must be in \[0, 1024\] with the"),
        ("num_hidden_layers", -1, r"num_hidden_layers = -1 must be in \[0, 1024\]"),
        ("num_local_experts", 10**9, r"num_local_experts = 1000000000 must be in \[0, 1024\]"),
        ("num_local_experts", -1, r"num_local_experts = -1 must be in"),
        (
            "num_experts_per_tok",
            9,
            r"per_tok = 9 .*8 experts to choose from: it must be in \[1, 8\]",
        ),
        ("num_experts_per_tok", 0, r"num_experts_per_tok = 0 .*must be in \[1, 8\]"),
        ("num_experts_per_tok", -1, r"num_experts_per_tok = -1 .*must be in \[1, 8\]"),
        ("sliding_window", 0, "sliding_window = 0 in config.json, and a window holds at least the token"),
        ("architectures", "Mixtral", "architectures = 'Mixtral' must be list, got str"),
        ("dtype", 5, "dtype = 5 must be str, got int"),
        ("dtype", "float31", "dtype = 'float31' in config.json, with which"),
        ("model_type", None, "no model_type in config.json"),
        ("model_type", [], r"model_type '\[\]' in config.json, which this transformers does not know"),
        ("quantization_config", {}, r"quantization_config = \{\} in config.json, which is no description"),
        ("quantization_config", "fp8", "quantization_config = 'fp8' in config.json, which is no description"),
        ("quantization_config", {"quant_method": "awq"}, r"is quantised \(awq\)"),
        ("configuration_files", ["config.4.0.0.json"], "configuration_files .*give one config.json"),
    ],
)
def test_a_value_that_no_model_has_is_named_in_one_line(
    base: Path, capsys: pytest.CaptureFixture[str], field: str, value: object, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        read_layout(put(base, **{field: value}))
    assert main([str(base)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("moe.inspect: checkpoint ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_all_fields_of_a_wrong_type_are_told_at_once(base: Path) -> None:
    with pytest.raises(ValueError, match=r"hidden_act = 5 must be str.*; vocab_size = 'x' must be int"):
        read_layout(put(base, vocab_size="x", hidden_act=5))


def test_fields_of_a_part_are_named_with_it(tiny: Tiny, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny("qwen3_vl_moe"), tmp_path / "base"))
    text = fields_of(base)["text_config"]
    for changes, told in (
        ({"hidden_size": "x"}, "text_config.hidden_size = 'x' must be int"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok = 9 in config.json, and layer 0 has 8"),
        ({"hidden_act": "x"}, "text_config.hidden_act = 'x' in config.json, with which"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"is quantised \(gptq\)"),
        ({"model_type": []}, r"text_config.model_type = \[\] must be str"),
    ):
        with pytest.raises(ValueError, match=told):
            read_layout(put(base, text_config=text | changes))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"n_group": 3}, "n_group = 3: it must divide"),
        ({"n_group": 0}, "n_group = 0: it must divide"),
        ({"topk_group": 2}, r"topk_group = 2: it must be in \[1, 1\]"),
        ({"n_group": 8, "topk_group": 1}, "topk_group = 1 of n_group = 8: too few experts to choose 2"),
        ({"n_group": None}, "n_group = None: its routers choose among groups of experts first"),
    ],
)
def test_groups_of_experts_must_divide_them(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    base = put(Path(shutil.copytree(tiny("deepseek_v3"), tmp_path / "base")), **changes)
    with pytest.raises(ValueError, match=told):
        read_layout(base)


def test_layers_that_slide_need_a_window(tiny: Tiny, tmp_path: Path) -> None:
    base = put(Path(shutil.copytree(tiny("gpt_oss"), tmp_path / "base")), sliding_window=None)
    with pytest.raises(ValueError, match=r"sliding_window = None in config\.json.*where no layer slides"):
        read_layout(base)


def test_a_null_is_absent_and_left_out_of_what_is_exported(base: Path, tmp_path: Path) -> None:
    # The tiny model has what mixtral has by default in these.
    usual = load_full(base).state_dict()
    # num_key_value_heads would be another number, and null for the window is a value of its own.
    nulls = ("hidden_act", "use_cache", "tie_word_embeddings", "rms_norm_eps", "num_experts_per_tok")
    put(base, **dict.fromkeys(nulls), quantization_config=None, sliding_window=None, head_dim=8)
    with pytest.raises(Exception, match="expected str, got NoneType"):
        AutoModelForCausalLM.from_pretrained(base)
    assert main([str(base)]) == 0
    assert read_layout(base).top_k == 2
    assert all(torch.equal(value, usual[name]) for name, value in load_full(base).state_dict().items())
    load_submodel(base, {0: (1,)})
    full = Tuning(method="full")
    out = export_merged(base, initial_arrays(base, full, [ExpertId(0, 1)]), full, tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(out)
    assert all(torch.equal(value, usual[name]) for name, value in found.state_dict().items())
    exported = fields_of(out)
    assert not exported.keys() & set(nulls)
    assert exported["sliding_window"] is None
    assert exported.items() <= fields_of(base).items()


def test_a_config_without_such_nulls_is_exported_byte_for_byte(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", "nemotron_h")  # it has an infinity, and a list of layers
    out = export_merged(base, {}, Tuning(), tmp_path / "out")
    assert (out / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_a_null_for_a_size_means_the_usual_size_which_the_files_do_not_have(base: Path) -> None:
    with pytest.raises(ValueError, match=r"lm_head.weight must be \[96, 4096\] by config.json, got"):
        read_layout(put(base, hidden_size=None))


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "config.json that is not JSON"),
        (b"{", "config.json that is not JSON"),
        (b"[" * 100_000, "config.json that is not JSON"),
        (b"\xff\xfe{\x00}\x00", "config.json that is not JSON"),
        (b"[1]", "config.json that is not a JSON object"),
        (b"null", "config.json that is not a JSON object"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark, .* save it as UTF-8 without one"),
        (b'{"hidden_size": ' + b"1" * 5000 + b"}", "config.json that is not JSON"),
    ],
)
def test_a_config_that_is_no_json_object_is_told_in_one_line(
    base: Path, capsys: pytest.CaptureFixture[str], content: bytes, told: str
) -> None:
    (base / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        read_layout(base)
    assert main([str(base)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("family", ["mixtral", "dbrx", "longcat_flash", "switch_transformers"])
def test_whatever_a_field_holds_there_is_no_traceback(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    base = Path(shutil.copytree(tiny(family), tmp_path / "base"))
    usual = fields_of(base)
    values: tuple[Any, ...] = (None, "x", [], {}, -1, 1.5)
    for name in usual:
        for value in values:
            (base / "config.json").write_text(json.dumps(usual | {name: value}))
            code = main([str(base)])
            said = capsys.readouterr()
            assert (code, bool(said.out), said.err.count("\n")) in ((0, True, 0), (1, False, 1)), (
                name,
                value,
            )


@pytest.mark.parametrize("dtype, told", [("float8_e4m3fn", "F8_E4M3"), ("int8", "I8"), ("uint8", "U8")])
def test_quantised_weights_that_do_not_say_so_are_named(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, told: str
) -> None:
    base = Path(shutil.copytree(tiny("mixtral"), tmp_path / "base"))
    name = "model.layers.0.self_attn.q_proj.weight"
    file = base / json.loads((base / "model.safetensors.index.json").read_text())["weight_map"][name]
    tensors = load_file(file)
    save_file(tensors | {name: tensors[name].to(getattr(torch, dtype))}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{name}'? (is stored )?as {told}.*quantised.*dequantised copy"):
        read_layout(base)
    assert main([str(base)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("content", ["[]", "null", "{", '{"temperature": "x"}', '{"eos_token_id": {}}'])
def test_how_text_would_be_generated_is_not_asked(base: Path, content: str) -> None:
    (base / "generation_config.json").write_text(content)
    load_full(base)
