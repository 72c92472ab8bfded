"""Names the first blocks of a prompt, so that the prefix cache knows equal ones. Only the start is looked at: it costs."""

from collections.abc import Iterable, Iterator

from mira_stream.sim.settings import SimSettings, block_tokens
from mira_stream.sim.tokens import BYTES_PER_TOKEN, Turn

# What the chat template puts around a message, in bytes that stand for as many tokens as it adds.
_BEFORE, _AFTER = 3 * BYTES_PER_TOKEN, 2 * BYTES_PER_TOKEN


def chat_texts(conversation: Iterable[Turn]) -> Iterator[str]:
    """The pieces of a conversation, each message between marks that tell roles apart."""
    for turn in conversation:
        yield turn.role[:_BEFORE].ljust(_BEFORE, "\0")
        yield turn.text
        yield "\0" * _AFTER


def prefix_keys(texts: Iterable[str], *, tokens: int, settings: SimSettings) -> tuple[int, ...]:
    """A key for each full block at the start of a prompt of `tokens` tokens, each dependent on all before it.

    Keys are equal only within one process. None without a prefix cache, or if answers come at once.
    """
    if not settings.time_scale or settings.prefix_cache == "off":
        return ()
    size = block_tokens(settings) * BYTES_PER_TOKEN
    most = min(settings.prefix_cache_tokens_max, tokens) // block_tokens(settings)
    head = _head(texts, most * size)
    keys: list[int] = []
    key = 0
    for start in range(0, len(head) - size + 1, size):
        key = hash((key, head[start : start + size]))
        keys.append(key)
    return tuple(keys)


def _head(texts: Iterable[str], size: int) -> bytes:
    """The first `size` bytes of the texts together, or all if they are fewer."""
    head = bytearray()
    for text in texts:
        if len(head) >= size:
            break
        head += text[: size - len(head)].encode(errors="surrogatepass")
    return bytes(head[:size])
