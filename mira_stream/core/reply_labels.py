"""Finds the labels of a reply and what each one says: `[A3] name: 7/10`, `overall: 65`, and their damaged forms.

A label at the left edge of a line may be damaged; inside a line it must be exact, for rationales quote labels, too.
"""

import re
from collections.abc import Iterator

import msgspec

from mira_stream.core.reply_values import (
    BLANK,
    BLANKS,
    DASHES,
    TEN,
    Number,
    choice_unfinished,
    ends_text,
    number_at,
    overall_at,
    recommendation_at,
)

TAIL: tuple[str, ...] = ("overall", "training_recommendation", "domain_tag", "brief")


class Label(msgspec.Struct, frozen=True):
    """One saying: where it starts, of which field, its value if it has a readable one, where its text begins."""

    start: int
    field: str
    value: float | str | None
    text: int


_EDGE = rf"\n[{BLANKS}>*_#`+•·{DASHES}]{{0,24}}+(?:[0-9]{{1,2}}[.)]{BLANK}{{1,3}}+[*_`]{{0,3}}+)?+"
_LINE_SLOT = re.compile(
    rf"{_EDGE}(\\?\[{BLANK}{{0,2}}[Aa]{BLANK}?|\(?A)([0-9]{{1,3}})(?![0-9A-Za-z@/'’]|\.[0-9]){BLANK}?\\?[\]).]?[*_`]{{0,3}}"
)
_TEXT_SLOT = re.compile(rf"\[{BLANK}{{0,2}}[Aa]{BLANK}?([0-9]{{1,3}}){BLANK}{{0,2}}\][*_`]{{0,3}}")
_SEPARATOR = rf"[*_`]{{0,3}}{BLANK}{{0,3}}[:=]"
_LINE_TAIL = re.compile(
    rf"{_EDGE}\[?(?i:(overall)(?:[ _]score)?|(training(?:[ _-]|\\_)?recommendation)|(domain(?:[ _-]|\\_)?tag)"
    rf"|(brief)(?:[ _]summary)?)\]?{_SEPARATOR}"
)
_TEXT_TAIL = {field: re.compile(rf"{field}{_SEPARATOR}") for field in TAIL}
_NEXT_FIELD = re.compile(rf"[{BLANKS}|;,.*_]{{1,12}}training_recommendation{_SEPARATOR}")
_TEXT_BRIEF = re.compile(rf"[{BLANKS}|;,][*_]{{0,3}}+brief{_SEPARATOR}")


def labels(shadow: str, *, cut: bool) -> list[Label]:
    """All labels in order. At a `cut` (finish reason `length`) a value that may go on after the text counts as unsaid."""
    edges: set[int] = set()
    found = [*_line_slots(shadow, edges, cut=cut), *_line_tails(shadow, edges, cut=cut)]
    found += _text_slots(shadow, edges, cut=cut)
    found += _text_tails(shadow, edges, cut=cut)
    found += _briefs_behind(shadow, found)
    found.sort(key=_start_of)
    return found


def _start_of(label: Label) -> int:
    return label.start


# --- slots -----------------------------------------------------------------------------------------------------------

_HEAD_MAX = 300
_USUAL = re.compile(rf"{BLANK}[A-Za-z][^\n:=\[\]|]{{0,120}}+: ([0-9]|10)/10(?= — [^\W\d]|\n)")
_RATIO = re.compile("[0-9]:[0-9]")  # in a name: `Ratio 1:2`
_INTRODUCED = re.compile("[:=]")
_SPACED = re.compile(rf"([{DASHES}]{BLANK}|{BLANK}\(|){BLANK}?[*_`]{{0,3}}(?<![0-9A-Za-z])(?=[0-9])")
_NO_NAME = re.compile(r"[:=.;,!?]")
_DASH_NEXT = re.compile(rf"{BLANK}{{0,4}}+[{DASHES}]")
_BELOW = re.compile(
    rf"[^\n:]{{0,120}}+:?[*_`]{{0,3}}{BLANK}{{0,8}}+\n[{BLANKS}\n>*_`•+{DASHES}]{{0,12}}+(?:(?i:score|rating){_SEPARATOR})?"
)
_ALONE = re.compile(rf"{BLANK}{{0,4}}+[,;|]?{BLANK}{{0,4}}+[*_]{{0,3}}(?:\[{BLANK}?[Aa]|\n|\Z)")
_INLINE_NAME = re.compile(r"[^\n:=\[\].;!?—–|\"]{0,80}+[:=]")


def _line_slots(shadow: str, edges: set[int], *, cut: bool) -> Iterator[Label]:
    """Labels at the left edge. A bracketed one ends the text before it even if no score follows."""
    for match in _LINE_SLOT.finditer(shadow):
        edges.add(match.start(2))
        after = match.end()
        number = _score_after(shadow, after)
        if "[" not in match[1] and not (number and number.stopped):
            continue
        field = f"A{int(match[2])}"
        if number is None or (cut and _unsure(shadow, number)):
            yield Label(match.start(), field, None, after)
        else:
            yield Label(match.start(), field, number.value, number.end)


def _head_end(shadow: str, start: int) -> int:
    """Where the stretch ends in which a score may be introduced: the line, the next label, or a bound."""
    limit = min(start + _HEAD_MAX, len(shadow))
    line_end = shadow.find("\n", start, limit)
    limit = line_end if line_end >= 0 else limit
    following = _TEXT_SLOT.search(shadow, start, limit)
    return following.start() if following else limit


def _unsure(shadow: str, number: Number) -> bool:
    """Whether what a cut took away could have changed the score: on an unfinished line only `s/10 —` is settled."""
    if "\n" in shadow[number.end : number.end + _HEAD_MAX]:
        return False
    return ends_text(shadow, number.end) or not (number.fraction and number.stopped)


def _score_after(shadow: str, start: int) -> Number | None:
    """The score in what follows a label at the left edge: `name: s/10 — …` and its damaged forms."""
    usual = _USUAL.match(shadow, start)
    if usual:
        return Number(float(usual[1]), usual.end(), True, True)
    limit = _head_end(shadow, start)
    said: list[Number] = []
    for at in (start, *(match.end() for match in _INTRODUCED.finditer(shadow, start, limit))):
        number = number_at(shadow, at, TEN)
        if number is None or (not number.fraction and _RATIO.match(shadow, at - 2)):
            continue
        if not said and number.fraction and number.stopped:
            return number
        said.append(number)
    if not said:
        return _score_without_colon(shadow, start, limit) or _score_below(shadow, start)
    # A name may hold what looks like a score (`2/10 rule: 7/10`): then nothing is clearly said.
    return said[0] if all(n.value == said[0].value and n.fraction == said[0].fraction for n in said) else None


def _score_without_colon(shadow: str, start: int, limit: int) -> Number | None:
    """`name — s/10`, `name (s/10)`, and `name s/10 — …`."""
    for match in _SPACED.finditer(shadow, start, min(limit, start + 120)):
        name = shadow[start : match.start()].lstrip(" :.")
        if _NO_NAME.search(name):
            return None
        number = number_at(shadow, match.end(), TEN)
        if (
            number
            and number.fraction
            and number.stopped
            and (match[1] or _DASH_NEXT.match(shadow, number.end))
        ):
            return number
    return None


def _score_below(shadow: str, start: int) -> Number | None:
    """A score at the left edge of the line below a name: `s/10` or `score: s/10`, with a stop after it."""
    match = _BELOW.match(shadow, start)
    number = number_at(shadow, match.end(), TEN) if match else None
    return number if number and number.fraction and number.stopped else None


def _text_slots(shadow: str, edges: set[int], *, cut: bool) -> Iterator[Label]:
    """Labels inside a line, which count only with a score: `[A3] s/10` and `[A3] name: s/10`."""
    for match in _TEXT_SLOT.finditer(shadow):
        if match.start(1) in edges or not _may_open(shadow, match.start()):
            continue
        number = _exact_score(shadow, match.end())
        if number and not (cut and _unsure(shadow, number)):
            yield Label(match.start(), f"A{int(match[1])}", number.value, number.end)


def _exact_score(shadow: str, start: int) -> Number | None:
    """The score of a label inside a line; a bare number only if nothing but the next label or the line's end follows."""
    name = _INLINE_NAME.match(shadow, start)
    number = number_at(shadow, start, TEN) or (number_at(shadow, name.end(), TEN) if name else None)
    if number is None or not number.stopped:
        return None
    return number if number.fraction or _ALONE.match(shadow, number.end) else None


def _may_open(shadow: str, at: int, quotes: str = '|"(') -> bool:
    """Whether a label may open inside a line: not at the edge, in a quotation, a bracket, an expression or a table."""
    before = shadow[at - 1]
    if before in {"\n", "\\"}:
        return False
    if before.isspace():
        return at < 2 or shadow[at - 2] not in quotes
    return before in "*_`>.,;—–-"


# --- the tail --------------------------------------------------------------------------------------------------------


def _line_tails(shadow: str, edges: set[int], *, cut: bool) -> Iterator[Label]:
    """Tail labels at the left edge; each ends the text before it, readable or not."""
    for match in _LINE_TAIL.finditer(shadow):
        assert match.lastindex is not None
        edges.add(match.start(match.lastindex))
        yield _tail_label(shadow, match.start(), TAIL[match.lastindex - 1], match.end(), cut=cut)


def _text_tails(shadow: str, edges: set[int], *, cut: bool) -> Iterator[Label]:
    """Tail labels inside a line, spelled exactly; `overall` only right before the recommendation."""
    for field in TAIL[:3]:
        at = shadow.find(field)
        while at >= 0:
            opens = at not in edges and _may_open(shadow, at, quotes='"(')
            match = _TEXT_TAIL[field].match(shadow, at) if opens else None
            if match and (field != "overall" or _leads_on(shadow, match.end())):
                yield _tail_label(shadow, at, field, match.end(), cut=cut)
            at = shadow.find(field, at + len(field))


def _leads_on(shadow: str, after: int) -> bool:
    number = overall_at(shadow, after)
    return number is not None and _NEXT_FIELD.match(shadow, number.end) is not None


def _briefs_behind(shadow: str, found: list[Label]) -> list[Label]:
    """A `brief` inside the line of another tail label; anywhere else the word may be prose."""
    briefs: dict[int, Label] = {}
    for label in found:
        if label.field in TAIL and label.field != "brief":
            line_end = shadow.find("\n", label.text, label.text + _HEAD_MAX)
            match = _TEXT_BRIEF.search(
                shadow, label.text, line_end if line_end >= 0 else label.text + _HEAD_MAX
            )
            if match:
                briefs[match.start()] = Label(match.start(), "brief", None, match.end())
    return list(briefs.values())


def _tail_label(shadow: str, start: int, field: str, after: int, *, cut: bool) -> Label:
    if field == "overall":
        number = overall_at(shadow, after)
        if number and not (cut and _unsure_overall(shadow, number)):
            return Label(start, field, number.value, number.end)
    elif field == "training_recommendation":
        action = recommendation_at(shadow, after)
        if action and not (cut and choice_unfinished(shadow, action[1])):
            return Label(start, field, action[0], action[1])
    return Label(start, field, None, after)


def _unsure_overall(shadow: str, number: Number) -> bool:
    return ends_text(shadow, number.end) or not (
        number.stopped or "\n" in shadow[number.end : number.end + 80]
    )
