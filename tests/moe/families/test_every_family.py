"""Every MoE family of transformers 5.23 works here, or is refused by name with a reason of its own."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moe.disk.layout import read_layout
from moe.families.blocks import REFUSED_FAMILIES, TESTED_FAMILIES

# The rows of a survey of transformers 5.23: every model type whose text model has routed experts.
TEXT_FAMILIES = (
    *("afmoe", "aria_text", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "dbrx", "deepseek_v2"),
    *("deepseek_v3", "deepseek_v32", "deepseek_v4", "dots1", "dots3_note_text", "ernie4_5_moe"),
    *("exaone_moe", "flex_olmo", "flint", "gemma4_text", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa"),
    *("gpt_oss", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared"),
    *("hunyuan_v1_moe", "hy_v3", "hy_v4", "inkling_text", "inkling2_text", "jamba", "jetmoe"),
    *("kimi_linear", "kolibri1", "laguna", "lfm2_moe", "llama4_text", "longcat_flash", "mellum"),
    *("mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3_vl_text", "mixtral", "nemotron_h", "olmoe"),
    *("phimoe", "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen4_exp_text"),
    *("solar_open", "zaya", "glm4v_moe_text", "glm5_next_text", "mistral4", "mistral_large4_text"),
    *("muse_spark_text", "qwen3_vl_moe_text", "openai_privacy_filter", "step3p5", "deepseek_ocr2_text"),
    *("unlimited_ocr_text", "ernie4_5_vl_moe_text", "qwen3_omni_moe_text", "diffusion_gemma_text"),
    *("nllb-moe", "switch_transformers", "doge"),
)
# What a user downloads where the above is only a part of it.
WHOLE_FAMILIES = (
    *("aria", "deepseek_ocr2", "diffusion_gemma", "dots3_note", "ernie4_5_vl_moe", "gemma4", "glm4v_moe"),
    *("glm5_next", "inkling2", "inkling_mm_model", "internvl", "kimi_k25", "llama4", "minimax_m3_vl"),
    *("mistral3", "mistral_large4", "muse_spark", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_omni_moe_thinker"),
    *("qwen3_vl_moe", "qwen4_exp", "step3p7", "unlimited_ocr"),
)


def test_no_family_is_both_tested_and_refused() -> None:
    assert not TESTED_FAMILIES & REFUSED_FAMILIES.keys()
    assert len(set(TEXT_FAMILIES)) == 72


@pytest.mark.parametrize("family", TEXT_FAMILIES + WHOLE_FAMILIES)
def test_a_family_is_tested_or_refused_with_a_reason_of_its_own(
    family: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    if family in TESTED_FAMILIES:
        return
    folder = Path(shutil.copytree(tiny("mixtral"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": family}))
    with pytest.raises(ValueError, match=f"'{family}' is refused: {re.escape(REFUSED_FAMILIES[family])}"):
        read_layout(folder)


def test_a_refusal_that_names_another_model_names_a_tested_one() -> None:
    named = {
        other
        for reason in REFUSED_FAMILIES.values()
        for other in re.findall(r"(?:whole model,|; use|give that,) (\w+)", reason)
    }
    assert len(named) == 12 and named <= TESTED_FAMILIES
