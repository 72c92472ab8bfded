"""Takes a model's thinking out of its reply, and leaves alone what only speaks about thinking tags.

The traces that are judged are full of `<think>`, so a rationale may well quote the tag. Inside a labelled line a tag
therefore opens a block only if the block ends on that line, and a lone closing tag ends one only at the line's end or
before the next label.
"""

import re

import msgspec

_TAG = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_LABELLED = re.compile(
    r"[ \t>*_#`+-]{0,24}+(?:\\?[\[【［]\s?[Aa]\s?[0-9]{1,3}|(?i:overall|brief|training.?recommendation|domain.?tag)[*_`]{0,3}\s?[:：])"
)
_ENDS_LINE = re.compile(r"[ \t*_`.]{0,24}+(?:\r|\n|\Z|[\[【［]\s?[Aa][0-9])")


def strip_thinking(text: str) -> str:
    """`text` without its thinking: blocks, all before a closing tag without an opening, all if a block never closes."""
    if "<" not in text:
        return text
    tags = list(_TAG.finditer(text))
    if not tags:
        return text
    kept: list[str] = []
    lines = _Lines(text)
    start, opened = 0, False
    for number, tag in enumerate(tags):
        quoted = lines.labelled(tag.start()) and not opened
        if tag[1]:
            if opened:
                start, opened = tag.end(), False
            elif not quoted or _ENDS_LINE.match(text, tag.end()):
                kept, start = [], tag.end()
        elif not opened and not (quoted and not _closes_on_line(tags, number, lines.end)):
            kept.append(text[start : tag.start()])
            opened = True
    return "" if opened else "".join((*kept, text[start:]))


def _closes_on_line(tags: list[re.Match[str]], number: int, line_end: int) -> bool:
    """Whether the tag after that opening one closes it before the line ends."""
    following = tags[number + 1] if number + 1 < len(tags) else None
    return following is not None and following[1] == "/" and following.start() < line_end


class _Lines(msgspec.Struct):
    """The line of a position that only moves forward; each line is looked for once, so a pass stays linear."""

    text: str
    end: int = -1
    is_labelled: bool = False

    def labelled(self, at: int) -> bool:
        """Whether the line of `at` begins with a slot's label; `end` is the end of that line from then on."""
        if at > self.end:
            start = self.text.rfind("\n", max(self.end, 0), at) + 1
            self.is_labelled = _LABELLED.match(self.text, start or max(self.end + 1, 0)) is not None
            found = self.text.find("\n", at)
            self.end = len(self.text) if found < 0 else found
        return self.is_labelled
