"""An adapter means what PEFT means by it, number for number, or is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from benchmarks.tiny_models import save_tiny
from moe.disk.layout import auto_class, open_storage
from moe.experts import ExpertId, Tuning
from moe.export.adapter_targets import adapter_targets
from moe.export.checkpoint import export_adapter, load_adapter, merge_adapter
from moe.export.command import main
from moe.tuning.adapters import initial_arrays

Tiny = Callable[..., Path]
FUSED: dict[str, Any] = {
    "target_modules": [],
    "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
}
ROUTERS_TOO = [*FUSED["target_parameters"], "gate.weight"]
EXPERTS = 8
WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"


def model_of(base: Path) -> PreTrainedModel:
    model: PreTrainedModel = auto_class(open_storage(base).model.config).from_pretrained(base)
    return model


def save_random(base: Path, config: PeftConfig, out: Path) -> Path:
    """Save an adapter of PEFT's own making, all of whose values are random."""
    torch.manual_seed(0)
    adapted = get_peft_model(model_of(base), config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(str(out))
    return out


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **FUSED, **settings})


def is_merged_as_peft_does(base: Path, adapter: Path, out: Path) -> None:
    """Assert that the merged checkpoint, loaded without this project, is PEFT's own merge."""
    usual = model_of(base).state_dict()
    want = PeftModel.from_pretrained(model_of(base), adapter).merge_and_unload().state_dict()
    got = model_of(merge_adapter(base, adapter, out)).state_dict()
    assert any(not torch.equal(value, usual[name]) for name, value in want.items())
    for name, value in want.items():
        # longcat_flash has rows behind the experts' that nothing reads; PEFT changes them, too.
        is_longer = "longcat" in base.name and ".experts." in name
        rows = slice(0, EXPERTS if is_longer else None)
        assert torch.allclose(got[name][rows], value[rows], rtol=0, atol=1e-6), name


@pytest.fixture
def adapter(tiny: Tiny, tmp_path: Path) -> Path:
    """Return a plain adapter of mixtral's experts, to be changed."""
    return save_random(tiny("mixtral"), lora(), tmp_path / "adapter")


def put(adapter: Path, **settings: Any) -> Path:
    content = json.loads((adapter / SETTINGS).read_text())
    (adapter / SETTINGS).write_text(json.dumps(content | settings))
    return adapter


def put_tensors(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / WEIGHTS)
    return adapter


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"alpha_pattern": {"experts.down_proj": 3}},
        {"alpha_pattern": {"layers.0.*": 2.5}},
        {"rank_pattern": {"experts.down_proj": 2}},
        {"rank_pattern": {"experts.gate_up_proj": 2}, "use_rslora": True},
        {"rank_pattern": {"layers.1.*": 8}, "alpha_pattern": {"layers.1.*": 1}, "use_rslora": True},
        {"target_parameters": ["layers.1.mlp.experts.down_proj"]},
        {"target_parameters": [*FUSED["target_parameters"], "gate.weight"]},
        {
            "target_parameters": [*FUSED["target_parameters"], "gate.weight"],
            "alpha_pattern": {"gate.weight": 1},
        },
        {"exclude_modules": ["layers.0"]},
        {"layers_to_transform": [1]},
        {"target_parameters": None, "target_modules": ["w1", "w2", "w3"]},
        {"target_parameters": None, "target_modules": ["w2"]},
        {"target_parameters": None, "target_modules": r".*experts.*\.(w1|w3)"},
        {"init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_what_peft_says_of_scale_rank_and_place_counts(
    tiny: Tiny, tmp_path: Path, settings: dict[str, Any]
) -> None:
    base = tiny("mixtral")
    is_merged_as_peft_does(base, save_random(base, lora(**settings), tmp_path / "a"), tmp_path / "out")


def test_every_family_is_merged_as_peft_does(adaptable: Path, tmp_path: Path) -> None:
    targets = adapter_targets(open_storage(adaptable))
    first, *_ = targets.get("target_parameters") or [r".*\.wi$"]
    patterns: dict[str, Any] = {"rank_pattern": {first: 2}, "alpha_pattern": {first: 5}}
    task = "SEQ_2_SEQ_LM" if "switch" in adaptable.name else "CAUSAL_LM"
    config = LoraConfig(r=3, lora_alpha=7, task_type=task, **targets, **patterns)
    is_merged_as_peft_does(adaptable, save_random(adaptable, config, tmp_path / "a"), tmp_path / "out")


def test_files_from_before_the_experts_were_fused_are_merged_as_peft_does(tiny: Tiny, tmp_path: Path) -> None:
    base, rank = tiny("mixtral"), 2
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(2):
        for index in range(8):
            for name, (outs, ins) in {"w1": (24, 32), "w3": (24, 32), "w2": (32, 24)}.items():
                path = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{index}.{name}"
                tensors[f"{path}.lora_A.weight"] = torch.randn(rank, ins, generator=generator)
                tensors[f"{path}.lora_B.weight"] = torch.randn(outs, rank, generator=generator)
    (tmp_path / "a").mkdir()
    save_file(tensors, tmp_path / "a" / WEIGHTS)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 3, "target_modules": ["w1", "w2", "w3"]}
    (tmp_path / "a" / SETTINGS).write_text(json.dumps({**settings, "task_type": "CAUSAL_LM"}))
    is_merged_as_peft_does(base, tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"use_dora": True}, "use_dora = True is not applied here"),
        ({"lora_bias": True}, "lora_bias = True is not applied here"),
        ({"bias": "all"}, "bias = 'all' is not applied here"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True is not applied here"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\] is not applied here"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"arrow_config": {}}, r"arrow_config = \{\} is not applied here"),
        ({"invented_in_2031": 5}, "invented_in_2031 = 5 is not applied here"),
        ({"use_dora": True, "bias": "all"}, "bias = 'all' .*; use_dora = True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' changes the base's weights too"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
        ({"init_lora_weights": 5}, "init_lora_weights = 5"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', and only LORA is merged here"),
        ({"peft_type": None}, "peft_type is None"),
        ({"r": 0}, "r = 0 must be a whole number >= 1"),
        ({"r": "4"}, "r = '4' must be a whole number >= 1"),
        ({"r": None}, "r = None must be a whole number >= 1"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan must be a finite number"),
        ({"lora_alpha": "6"}, "lora_alpha = '6' must be a finite number"),
        ({"rank_pattern": {"down": 1.5}}, r"rank_pattern\['down'\] = 1.5 must be a whole number"),
        ({"alpha_pattern": {"down": float("inf")}}, r"alpha_pattern\['down'\] = inf must be a finite number"),
        ({"alpha_pattern": [1]}, r"alpha_pattern = \[1\] must be an object"),
        ({"use_rslora": "yes"}, "use_rslora = 'yes' must be true or false"),
        ({"r": 5}, r"must be \[40, 32\], got \[32, 32\]"),
        ({"target_parameters": ["experts.up_proj"]}, "cannot be put on .*: PEFT says: "),
        ({"target_parameters": 5}, "PEFT"),
    ],
    ids=str,
)
def test_settings_that_are_not_applied_are_refused_by_name(
    tiny: Tiny, adapter: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], told: str
) -> None:
    base, out = tiny("mixtral"), adapter.parent / "out"
    with pytest.raises(ValueError, match=told):
        merge_adapter(base, put(adapter, **settings), out)
    assert main([str(adapter), "--base", str(base), "--merged", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("moe.export: ")
    assert said.count("\n") == 1
    assert not out.exists()


def test_settings_that_change_nothing_are_no_hindrance(tiny: Tiny, adapter: Path, tmp_path: Path) -> None:
    put(adapter, lora_dropout=0.5, inference_mode=False, runtime_config={"a": 1}, invented=None, also=[])
    want = PeftModel.from_pretrained(
        model_of(tiny("mixtral")), save_random(tiny("mixtral"), lora(), tmp_path / "b")
    )
    got = model_of(merge_adapter(tiny("mixtral"), adapter, tmp_path / "out")).state_dict()
    for name, value in want.merge_and_unload().state_dict().items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize(
    "config, told",
    [
        (lora(target_modules=["embed_tokens"]), "it changes model.embed_tokens.weight"),
        (lora(modules_to_save=["lm_head"]), "modules_to_save"),
        (lora(bias="all"), "bias = 'all'"),
        (LoHaConfig(target_modules=["q_proj"]), "peft_type is 'LOHA'"),
        (IA3Config(target_modules=["q_proj"], feedforward_modules=[]), "peft_type is 'IA3'"),
    ],
    ids=["embedding", "whole modules", "biases", "LoHa", "IA3"],
)
def test_what_is_no_lora_of_experts_is_refused_by_name(
    tiny: Tiny, tmp_path: Path, config: PeftConfig, told: str
) -> None:
    adapter = save_random(tiny("mixtral"), config, tmp_path / "a")
    with pytest.raises(ValueError, match=told):
        merge_adapter(tiny("mixtral"), adapter, tmp_path / "out")


@pytest.mark.parametrize("alone", [True, False])
def test_attention_beside_experts_or_alone_is_merged_as_peft_does(
    tiny: Tiny, tmp_path: Path, alone: bool
) -> None:
    config = lora(target_modules=["q_proj", "o_proj"], **({"target_parameters": None} if alone else {}))
    adapter = save_random(tiny("mixtral"), config, tmp_path / "a")
    is_merged_as_peft_does(tiny("mixtral"), adapter, tmp_path / "out")


def test_a_layer_of_one_expert_which_peft_takes_the_other_way_round_is_refused(
    adapter: Path, tmp_path: Path
) -> None:
    base = save_tiny(tmp_path / "one", "mixtral", num_local_experts=1, num_experts_per_tok=1)
    with pytest.raises(ValueError, match=r"PEFT 0\.21 cannot adapt a layer that has one expert"):
        merge_adapter(base, adapter, tmp_path / "out")


KEY = "base_model.model.model.layers.1.mlp.experts.lora_B.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_the_tensor(
    tiny: Tiny, adapter: Path, value: float
) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[KEY][3, 1] = value

    put_tensors(adapter, spoil)
    told = f"has values that are not finite in {KEY};"
    with pytest.raises(ValueError, match=told):
        merge_adapter(tiny("mixtral"), adapter, adapter.parent / "out")
    with pytest.raises(ValueError, match=told):
        load_adapter(tiny("mixtral"), adapter)


def test_a_change_too_large_for_the_bases_type_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    base = tiny("mixtral", torch.float16)
    adapter = save_random(base, lora(lora_alpha=10**7), tmp_path / "a")
    with pytest.raises(ValueError, match=r"makes 'model.layers.0.*larger than its type F16 can hold"):
        merge_adapter(base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def _cast(adapter: Path) -> None:
    put_tensors(adapter, lambda t: t.update({KEY: t[KEY].to(torch.int8)}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut short": (lambda a: _cut(a / WEIGHTS), f"is damaged: {WEIGHTS} is cut short"),
    "weights empty": (lambda a: (a / WEIGHTS).write_bytes(b""), r"is cut short \(0 bytes\)"),
    "weights of rubbish": (lambda a: (a / WEIGHTS).write_bytes(b"rubbish " * 9), "is no|is not|cut short"),
    "no weights": (lambda a: (a / WEIGHTS).unlink(), f"has {SETTINGS} and no {WEIGHTS}"),
    "pickled weights": (
        lambda a: (a / WEIGHTS).rename(a / "adapter_model.bin"),
        "adapter_model.bin, which can run code",
    ),
    "a tensor missing": (lambda a: put_tensors(a, lambda t: t.pop(KEY)), f"{KEY} is missing"),
    "a tensor too many": (
        lambda a: put_tensors(a, lambda t: t.update(extra=torch.zeros(1))),
        "extra is not asked for",
    ),
    "a tensor of another shape": (
        lambda a: put_tensors(a, lambda t: t.update({KEY: t[KEY][:-1].clone()})),
        rf"{KEY} must be \[32, 32\], got \[31, 32\]",
    ),
    "whole numbers": (_cast, f"tensors that are no factors of LoRA: {KEY} is I8"),
    "settings cut short": (lambda a: _cut(a / SETTINGS), f"has a {SETTINGS} that is not JSON"),
    "settings empty": (lambda a: (a / SETTINGS).write_text(""), f"has a {SETTINGS} that is not JSON"),
    "settings of a list": (lambda a: (a / SETTINGS).write_text("[]"), "that is not a JSON object"),
    "no settings": (lambda a: (a / SETTINGS).unlink(), f"has no {SETTINGS}; give the folder of a run"),
    "an origin cut short": (lambda a: (a / "ems_fl.json").write_text("{"), "has a ems_fl.json that is not"),
    "an origin of a list": (lambda a: (a / "ems_fl.json").write_text("[]"), "that is not a JSON object"),
    "an origin of a number": (
        lambda a: (a / "ems_fl.json").write_text('{"base_fingerprint": 5}'),
        "base_fingerprint = 5 in ems_fl.json, no text",
    ),
    "a base that is a number": (lambda a: put(a, base_model_name_or_path=5), "base_model_name_or_path = 5"),
    "no base": (
        lambda a: put(a, base_model_name_or_path=None),
        "does not name its base; give it with --base",
    ),
    "a base that has moved": (
        lambda a: put(a, base_model_name_or_path="/no/such/base"),
        "'/no/such/base' does not exist.*or give the base with --base",
    ),
}


@pytest.mark.parametrize("damage, told", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_adapter_is_one_line(
    adapter: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], told: str
) -> None:
    damage(adapter)
    assert main([str(adapter), "--merged", str(adapter.parent / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("moe.export: ")
    assert said.count("\n") == 1
    with pytest.raises(ValueError, match=told):
        raise ValueError(said)
    assert not (adapter.parent / "out").exists()


def test_a_folder_is_the_base_whatever_revision_the_adapter_names(adapter: Path, tmp_path: Path) -> None:
    assert Path(json.loads((adapter / SETTINGS).read_text())["base_model_name_or_path"]).is_dir()
    for commit in ("main", "0123456789abcdef", ""):
        put(adapter, revision=commit)
        assert main([str(adapter), "--merged", str(tmp_path / f"out-{commit}")]) == 0


def test_an_adapter_of_a_run_with_patterns_of_its_own_still_fits(tiny: Tiny, tmp_path: Path) -> None:
    base = tiny("mixtral")
    tuning = Tuning(method="lora", lora_rank=3, lora_alpha=5.0, lora_rslora=True, router_rows=True)
    start = initial_arrays(base, tuning, [ExpertId(0, 2), ExpertId(1, 7)])
    generator = torch.Generator().manual_seed(1)
    arrays = {key: torch.randn(value.shape, generator=generator).numpy() for key, value in start.items()}
    export_adapter(base, arrays, tuning, tmp_path / "a")
    is_merged_as_peft_does(base, tmp_path / "a", tmp_path / "out")
