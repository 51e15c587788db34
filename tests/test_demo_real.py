"""The command of the real demo: who gets which text."""

import pytest

from cli.demo_real import MAKER_SHARE, share_out

TEXTS = [f"{name} {number} " + "word " * 30 for number in range(40) for name in ("a", "b", "c")]
DOMAINS = [text[0] for text in TEXTS]


def test_maker_and_devices_share_no_text_and_leave_none_out() -> None:
    maker, devices = share_out(TEXTS, DOMAINS)
    assert set(maker) == set(devices) == {"a", "b", "c"}
    for name in maker:
        assert not set(maker[name]) & set(devices[name])
        assert len(maker[name]) + len(devices[name]) == 40
        assert len(maker[name]) / 40 == pytest.approx(MAKER_SHARE, abs=0.05)
    assert share_out(TEXTS[::-1], DOMAINS[::-1]) == (
        {name: maker[name] for name in maker},
        {name: devices[name] for name in devices},
    )


def test_one_domain_makes_no_experts() -> None:
    with pytest.raises(ValueError, match="there is only a; name the column"):
        share_out(["x", "y"], ["a", "a"])
