"""Names of the first blocks of a prompt."""

from mira_stream.sim.prefix_keys import chat_texts, prefix_keys
from mira_stream.sim.settings import SimSettings
from mira_stream.sim.tokens import Turn, count_chat

SETTINGS = SimSettings(prefix_cache_tokens_max=1_024)


def keys(*turns: Turn, settings: SimSettings = SETTINGS) -> tuple[int, ...]:
    return prefix_keys(chat_texts(turns), tokens=count_chat(turns), settings=settings)


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Blocks until the first difference."""
    return next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))


def test_prompts_share_what_begins_alike() -> None:
    """Two conversations with the same system message share its full blocks, and nothing after them."""
    system = Turn(
        "system", "Rubric. " * 100
    )  # 800 bytes; marks of 9 bytes before each message and of 6 after
    one, other = (keys(system, Turn("user", text * 300)) for text in ("abc ", "xyz "))
    assert shared(one, other) == (9 + 800 + 6 + 9) // 48
    assert shared(one, one) == len(one)


def test_nothing_is_shared_after_a_difference() -> None:
    """Equal blocks behind different ones have different names: what is in KV depends on all before it."""
    one, other = (keys(Turn("user", first + "same text " * 300)) for first in ("a", "b"))
    assert not set(one) & set(other)


def test_roles_tell_prompts_apart() -> None:
    """The same text as another role's message is another prompt."""
    assert not set(keys(Turn("user", "abc " * 50))) & set(keys(Turn("system", "abc " * 50)))


def test_only_full_blocks_at_the_start_have_names() -> None:
    """No more blocks are named than are full, or than the cache looks at."""
    short = Turn("user", "中" * 20)  # 20 tokens, and 8 from the template
    assert len(keys(short)) == 1
    assert len(keys(Turn("user", "abc" * 10_000))) == 1_024 // 16


def test_without_a_cache_there_are_no_names() -> None:
    """Nothing is spent on names that nobody asks for."""
    turn = Turn("user", "abc " * 500)
    assert keys(turn, settings=SimSettings(prefix_cache="off")) == ()
    assert keys(turn, settings=SimSettings(time_scale=0.0)) == ()
    hybrid = SimSettings(prefix_cache="hybrid", hybrid_block_tokens=256)
    assert len(keys(turn, settings=hybrid)) == (2_000 // 3) // 256
