"""The simulator's tokenizer: counts and ids agree, and ids turn back into text."""

from hypothesis import given
from hypothesis import strategies as st

from mira_stream.sim.tokens import (
    SPECIAL,
    VOCABULARY_SIZE,
    Turn,
    count_chat,
    count_text,
    decode,
    encode_chat,
    encode_text,
    piece_of,
)

TEXT = st.text(st.characters(exclude_categories=("Cs",))) | st.lists(
    st.sampled_from([*SPECIAL, "a", "—", "<|", "|>"])
).map("".join)


@given(TEXT)
def test_ids_are_as_many_as_counted_and_turn_back(text: str) -> None:
    """`encode_text` gives as many ids as `count_text` says, all in the vocabulary, and `decode` undoes it."""
    ids = encode_text(text)
    assert len(ids) == count_text(text)
    assert all(0 <= token < VOCABULARY_SIZE for token in ids)
    assert decode(ids) == text


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool", "odd"]), TEXT)), st.booleans()
)
def test_a_conversation_counts_as_its_ids(messages: list[tuple[str, str]], generation: bool) -> None:
    """`count_chat` and `encode_chat` agree, with and without the opened turn."""
    conversation = [Turn(role, text) for role, text in messages]
    assert len(encode_chat(conversation, generation=generation)) == count_chat(
        conversation, generation=generation
    )


def test_three_bytes_are_a_token() -> None:
    """ASCII and other text is counted by its UTF-8 bytes, also where only the end is not ASCII."""
    assert count_text("x" * 300) == 100
    assert count_text("—" * 100) == 100
    assert count_text("x" * 9_000 + "—") == 3_001


def test_special_tokens_in_text_are_special() -> None:
    """A record that says `<|im_end|>` says one token that closes its turn, as in vLLM."""
    assert len(encode_text("a<|im_end|>b")) == 3
    assert piece_of(encode_text("<|im_end|>")[0]) == b"<|im_end|>"


def test_an_id_outside_the_vocabulary_is_nothing() -> None:
    """Unknown ids decode to the empty text."""
    assert decode([VOCABULARY_SIZE, -1]) == ""
