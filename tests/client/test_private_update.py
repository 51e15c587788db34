"""Updates that are clipped and noised before they leave: Flower's mod on our messages."""

import math

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.private_update import noised_update
from moe.experts import ExpertArrays, ParameterKey
from scenario.settings.privacy import PrivacySettings
from strategy.messages import ExpertUpdate, read_update, train_instruction, update_reply

KEYS = [ParameterKey(layer, 0, "fc_in.lora_B") for layer in (0, 1)]
VALUES: ExpertArrays = {key: np.full((200, 50), 3.0, np.float32) for key in KEYS}
CONTEXT = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


@pytest.fixture(autouse=True)
def _in_a_run() -> None:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def answered(
    delta: ExpertArrays, privacy: PrivacySettings, seed: list[int] | None = None, *, is_delta: bool = True
) -> ExpertArrays:
    """Send an update through the mod and return the change that the server reads."""
    task = train_instruction(1, VALUES, 0)
    task.metadata.__dict__["_message_id"] = "task"
    sent = delta if is_delta else {key: VALUES[key] + change for key, change in delta.items()}
    reply = update_reply(ExpertUpdate(arrays=sent, num_examples=4, train_loss=1.0, local_steps=2), task)
    noised: Message = noised_update(reply, task, CONTEXT, privacy, is_delta=is_delta, seed=seed)
    assert not noised.has_error()
    arrays = read_update(noised, VALUES, 4).arrays
    return arrays if is_delta else {key: value - VALUES[key] for key, value in arrays.items()}


def norm(arrays: ExpertArrays) -> float:
    return math.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in arrays.values()))


def change(size: float) -> ExpertArrays:
    rng = np.random.default_rng(0)
    drawn = {key: rng.standard_normal((200, 50)).astype(np.float32) for key in KEYS}
    return {key: value * np.float32(size / norm(drawn)) for key, value in drawn.items()}


@pytest.mark.parametrize("is_delta", [True, False])
def test_a_long_update_is_clipped_and_a_short_one_is_not(is_delta: bool) -> None:
    hardly_any_noise = PrivacySettings(epsilon=1e9, clip_norm=2.0)
    for size, expected in ((10.0, 2.0), (0.5, 0.5)):
        found = answered(change(size), hardly_any_noise, is_delta=is_delta)
        assert norm(found) == pytest.approx(expected, rel=1e-4)
        for key in KEYS:
            np.testing.assert_allclose(found[key], change(size)[key] * expected / size, atol=2e-6)


def test_the_noise_is_that_of_the_gaussian_mechanism() -> None:
    privacy = PrivacySettings(epsilon=0.5, delta=1e-4, clip_norm=0.7)
    noise = np.concatenate([value.ravel() for value in answered(change(0.7), privacy, [1]).values()])
    # Dwork and Roth 2014, theorem A.1, with sensitivity 2 * 0.7; 20,000 numbers.
    assert noise.std() == pytest.approx(1.4 * math.sqrt(2 * math.log(1.25e4)) / 0.5, rel=0.02)
    assert abs(noise.mean()) < 4 * noise.std() / math.sqrt(noise.size)


def test_an_update_of_nothing_is_noised_too() -> None:
    nothing = {key: np.zeros((200, 50), np.float32) for key in KEYS}
    assert norm(answered(nothing, PrivacySettings(epsilon=1.0), [1])) > 1.0


def test_a_seed_gives_the_same_noise_and_a_node_without_one_never_the_same() -> None:
    privacy = PrivacySettings(epsilon=1.0)
    one, again, other = (answered(change(1.0), privacy, [seed])[KEYS[0]] for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    np.random.seed(7)  # whatever anybody does with numpy's own stream, which goes on as it was
    mine, expected = answered(change(1.0), privacy)[KEYS[0]], np.random.RandomState(7).random()
    assert np.random.random() == expected
    np.random.seed(7)
    assert not np.array_equal(mine, answered(change(1.0), privacy)[KEYS[0]])
