"""Text from outside, for people: nothing in it that speaks to a terminal or turns the text beside it round."""


def shown(text: str) -> str:
    """`text` with U+FFFD for what cannot be seen: control characters, direction marks, lone surrogates."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def clipped(text: str, chars_max: int) -> str:
    """The beginning of `text` on one line, `shown`, at most so many characters, with an ellipsis where it goes on."""
    # Of a long text only the beginning is looked at; white space at most doubles what is needed of it.
    line = " ".join(text[: 2 * chars_max].split())
    cut = len(line) > chars_max or len(text) > 2 * chars_max
    return shown(line[: chars_max - 1]) + "…" if cut else shown(line)
