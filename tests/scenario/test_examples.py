"""Prompts with responses and chats: what of them is predicted, how they are cut and packed."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from demo.tokenizer import END_OF_TEXT, train_tokenizer
from scenario.data.examples import cut, example_of_messages, example_of_pair, pack_examples, render
from scenario.data.questions import answers_of, questions_of
from scenario.data.text_source import LabelledTexts, read_texts

CHAT = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["any text will do for bytes"], vocab_size=257, max_length=64)


def parts(tokenizer: PreTrainedTokenizerFast, example: str) -> tuple[str, str]:
    """Return all of a rendered example, and what of it is predicted."""
    tokens, predicted = render(tokenizer, example)
    chosen = [token for token, is_predicted in zip(tokens, predicted, strict=True) if is_predicted]
    return str(tokenizer.decode(tokens)), str(tokenizer.decode(chosen))


def test_the_response_and_its_end_are_predicted_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    example = example_of_pair("2 + 2", "four")
    assert parts(tokenizer, example) == (f"2 + 2\nfour{END_OF_TEXT}", f"four{END_OF_TEXT}")
    tokenizer.chat_template = CHAT
    assert parts(tokenizer, example) == ("<user>2 + 2</><assistant>four</>", "four</>")


def test_every_reply_of_a_chat_is_predicted(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = CHAT
    chat = [("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    example = example_of_messages([{"role": role, "content": text} for role, text in chat])
    whole, predicted = parts(tokenizer, example)
    assert whole == "".join(f"<{role}>{text}</>" for role, text in chat)
    assert predicted == "b</>d</>"
    # Whatever follows the last reply asks for nothing.
    longer = example_of_messages([*json.loads(example), {"role": "user", "content": "e"}])
    assert parts(tokenizer, longer) == (whole, predicted)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[1", "no JSON"),
        ("7", "list of messages"),
        ([{"role": "user", "content": "a"}], "no response"),
        ([{"role": "assistant", "content": "a"}], "no response"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}], "without text"),
        ([{"content": "a"}, {"role": "assistant", "content": "b"}], "without a role"),
    ],
)
def test_what_is_no_chat_is_refused(value: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        example_of_messages(value)


def test_a_template_that_fails_is_told_in_its_own_words(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system role here') }}"
    with pytest.raises(ValueError, match="chat template: no system role here"):
        render(tokenizer, example_of_pair("a", "b"))
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="another beginning"):
        render(tokenizer, example_of_pair("a", "b"))


def test_a_long_example_keeps_the_end_of_its_prompt_and_its_response_or_goes_on() -> None:
    prompt, response = list(range(20)), list(range(100, 130))
    whole = (prompt + response, [False] * 20 + [True] * 30)
    (short,) = cut(whole, 16, "truncate")
    assert short == (prompt[-8:] + response[:8], [False] * 8 + [True] * 8)
    pieces = list(cut(whole, 16, "split"))
    pairs = [pair for piece in pieces for pair in zip(*piece, strict=True)]
    told = [token for token, is_predicted in pairs if is_predicted]
    assert told == response
    for tokens, predicted in pieces:
        assert len(tokens) <= 16 and len(predicted) == len(tokens)
        start = predicted.index(True)
        assert start >= 8 and tokens[:start] == (prompt + response)[: whole[0].index(tokens[start])][-start:]
    # A short response leaves all the room to the prompt.
    (fits,) = cut((prompt + response[:2], [False] * 20 + [True] * 2), 16, "truncate")
    assert fits == (prompt[-14:] + response[:2], [False] * 14 + [True] * 2)
    assert list(cut(whole, 50, "split")) == [whole]


def test_blocks_hold_whole_examples_and_padding_last(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [example_of_pair("ab", "c"), example_of_pair("d", "ef"), example_of_pair("ghijk", "l")]
    options = {"sequence_length": 12, "rule": "truncate"}
    packed = pack_examples(tokenizer, examples, several=True, **options)  # type: ignore[arg-type]
    assert packed.shape == (2, 3, 12)
    assert packed[0, 2].tolist() == [1] * 5 + [2] * 5 + [0] * 2
    assert packed[0, 1].tolist() == [0, 0, 0, 1, 1] + [0, 0, 1, 1, 1] + [0] * 2
    apart = pack_examples(tokenizer, examples, several=False, **options)  # type: ignore[arg-type]
    assert apart[:, 2].max() == 1 and len(apart) == 3
    assert apart[:, 1].sum() == packed[:, 1].sum() == 7
    most = pack_examples(tokenizer, examples, several=True, max_examples=1, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(most, packed[:1])


def read(path: Path, **columns: str) -> LabelledTexts:
    named = {"text_column": "text", "domain_column": "", "label_column": "", "split": "train", "needs": ""}
    return read_texts(str(path), **{**named, **columns})


def test_rows_become_examples_and_say_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = {"q": "a", "hint": "h", "r": "b"}
    rows = [first, first, {"q": "c", "hint": "", "r": "d"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read(path, prompt_column="q+hint", response_column="r")
    assert found.texts == [example_of_pair("a\nh", "b"), example_of_pair("c", "d")]
    assert found.places == ["line 1", "line 3"]
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path.write_text(json.dumps({"chat": chat}) + "\n" + json.dumps({"chat": json.dumps([*chat, *chat])}))
    assert read(path, messages_column="chat").texts == [
        example_of_messages(chat),
        example_of_messages(chat * 2),
    ]


def test_rows_without_a_response_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("q,r\na,b\nc,\n,d\n")
    told = r"rows.csv': line 3 has no response in r, line 4 has no prompt in q; complete or leave out"
    with pytest.raises(ValueError, match=told):
        read(path, prompt_column="q", response_column="r")
    path.write_text('m\n"[1"\n')
    with pytest.raises(ValueError, match=r"rows.csv': line 2 holds messages that are no JSON"):
        read(path, messages_column="m")
    with pytest.raises(ValueError, match="no column 'n'; its columns are m"):
        read(path, messages_column="n")


def test_a_question_is_put_with_every_answer_and_the_answer_alone_is_predicted(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    examples = [example_of_pair("1+1", "two"), example_of_pair("2+1", "three")]
    answers = answers_of([*examples, example_of_pair("?", "none")])
    assert answers == ("none", "three", "two")
    asked = questions_of(examples, answers, tokenizer, sequence_length=16)
    assert asked.right.tolist() == [2, 1] and asked.blocks.shape == (2, 3, 3, 16)
    for question, text in zip(asked.blocks, ("1+1", "2+1"), strict=True):
        for block, answer in zip(question, answers, strict=True):
            whole, chosen = block[0][block[2] > 0], block[0][block[1] > 0]
            assert tokenizer.decode(whole) == f"{text}\n{answer}{END_OF_TEXT}"
            assert tokenizer.decode(chosen) == f"{answer}{END_OF_TEXT}"


def test_of_a_chat_the_last_reply_is_what_is_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "zzz")]
    chat = example_of_messages([{"role": role, "content": text} for role, text in turns])
    answers = answers_of([chat, example_of_pair("f", "longer")])
    asked = questions_of([chat], answers, tokenizer, sequence_length=32)
    assert answers == ("d", "longer") and asked.right.tolist() == [0]
    block = asked.blocks[0, 1]
    assert tokenizer.decode(block[0][block[1] > 0]) == f"longer{END_OF_TEXT}"
    whole = tokenizer.decode(block[0][block[2] > 0])
    assert whole == f"a\nb{END_OF_TEXT}c\nlonger{END_OF_TEXT}"


def test_a_long_question_keeps_its_end_and_its_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = questions_of(
        [example_of_pair("x" * 90 + "y", "no")], ["no", "yes"], tokenizer, sequence_length=12
    )
    assert tokenizer.decode(asked.blocks[0, 1, 0]) == f"xxxxxxy\nyes{END_OF_TEXT}"


def test_free_text_is_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="2 to 200 different responses to choose from, got 201"):
        answers_of(example_of_pair("q", str(number)) for number in range(201))
    with pytest.raises(ValueError, match="got 1; leave evaluate"):
        answers_of([example_of_pair("q", "a"), example_of_pair("r", "a")])
