"""Numbers and words of a reply: which characters make a score, an overall or a recommendation, and which do not.

Everything here looks at one place of the text and a bounded stretch after it.
"""

import re

import msgspec

DASHES = "\\-‐‑‒–—―−﹘﹣⸺⸻─━"
BLANKS = " \t\f\v\u00a0\u1680\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff"
BLANK = f"[{BLANKS}]"

_TWINS = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {
    **dict.fromkeys("【〔〖", "["),
    **dict.fromkeys("】〕〗", "]"),
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("﹕︰꞉", ":"),
    **dict.fromkeys("\r\u0085\u2028\u2029", "\n"),
    "。": ".",
    "、": ",",
}
_TWIN = re.compile(f"[{re.escape(''.join(_TWINS))}]")


def plain_forms(page: str) -> str:
    """`page` with full-width and CJK forms as their ASCII twins, character for character, so that positions agree."""
    if "\r" not in page and page.replace("—", "-").isascii():
        return page
    return _TWIN.sub(lambda match: _TWINS[match[0]], page)


class Number(msgspec.Struct, frozen=True):
    """A number on its scale: its value, where it ends, whether it names its scale, whether a stop comes after it."""

    value: float
    end: int
    fraction: bool
    stopped: bool


class Scale(msgspec.Struct, frozen=True):
    """How a number up to `top` is written. A fraction may be followed by words, a bare number by a stop only."""

    top: int
    value: re.Pattern[str]
    not_after_fraction: re.Pattern[str]
    not_after_bare: re.Pattern[str]


_NUMBER = r"[0-9]{1,3}(?:\.[0-9]{1,9}|,[0-9]{1,2})?(?![0-9]|[.,][0-9])"
_OPEN = f"[{BLANKS}*_`\"'“‘(<\\[]{{0,16}}+"
_CLOSE = "[*_`\"'”’)\\]>]{0,8}+"
_OF = (
    rf"[{BLANKS}*_`>)\]\"'(,]{{0,6}}(?:/|(?i:out{BLANK}{{1,3}}of)){BLANK}{{0,3}}[*_`<(]{{0,4}}{BLANK}{{0,3}}"
)
_STOP = re.compile(
    rf"{BLANK}{{0,8}}+(?:\Z|[\n\[(;|!=→…{DASHES}]|[:,.](?![0-9])|training_recommendation|domain_tag)"
)
_HYPHENS = "\\-‐‑"
_BETWEEN = rf"(?:[{DASHES}~/]|(?i:to|or|and)\b|或|至|到)"
_NEXT = rf"{BLANK}{{0,4}}+{_BETWEEN}{BLANK}{{0,4}}+[*_`(]{{0,4}}+{_NUMBER}"


def _scale(top: int) -> Scale:
    fraction = rf"(?:{_OF}{top}(?![0-9])(?:{BLANK}?[分点])?)"
    of_top = rf"{_OF}{top}(?![0-9])"
    # `7/10 – 8/10` is a range; `7/10 — 9/10 tests pass` is a score and its rationale.
    rationale = rf"(?!{BLANK}+—{BLANK}+{_NUMBER}{of_top}{BLANK}+\w)"
    return Scale(
        top,
        re.compile(rf"{_OPEN}({_NUMBER})({fraction}?){_CLOSE}"),
        re.compile(
            rf"[0-9A-Za-z+%]|[.,:][0-9]|[{_HYPHENS}][A-Za-z]|[{_HYPHENS}–~][0-9]|{BLANK}{{0,4}}+[/%]"
            rf"|{rationale}{_NEXT}(?:{of_top}|{BLANK}{{0,8}}+(?:\n|\Z))|{BLANK}{{0,4}}+(?i:to|or|and){BLANK}{{1,4}}+{_NUMBER}"
        ),
        re.compile(
            rf"[0-9A-Za-z+:]|[{_HYPHENS}][A-Za-z]|{BLANK}{{0,4}}+[/%]|{_NEXT}"
            rf"|{BLANK}{{0,4}}+[(\[,]?{BLANK}{{0,4}}+(?:(?i:out|of)\b|/)"
        ),
    )


TEN = _scale(10)
HUNDRED = _scale(100)
_PERCENT = re.compile(rf"{_OPEN}({_NUMBER}){BLANK}?%{_CLOSE}(?!{BLANK}?[/0-9A-Za-z]|{_NEXT})")


def number_at(shadow: str, start: int, scale: Scale) -> Number | None:
    """The number of that scale that stands at `start`, markup aside, if what follows lets it be one."""
    match = scale.value.match(shadow, start)
    if match is None:
        return None
    value, fraction = float(match[1].replace(",", ".")), bool(match[2])
    if value > scale.top:
        return None
    forbidden = scale.not_after_fraction if fraction else scale.not_after_bare
    if forbidden.match(shadow, match.end()):
        return None
    stopped = _STOP.match(shadow, match.end()) is not None
    return Number(value, match.end(), fraction, stopped) if fraction or stopped else None


_LINE_BELOW = re.compile(rf"{BLANK}{{0,8}}+[*_`]{{0,4}}+{BLANK}{{0,8}}+\n\s{{0,8}}+")
_NUMBER_ONLY = re.compile(rf"{BLANK}{{0,8}}+(?:\n|\Z)")


def overall_at(shadow: str, start: int) -> Number | None:
    """The overall at `start`: `65`, `65/100`, `65 %`; on the line below only if it is alone there."""
    percent = _PERCENT.match(shadow, start)
    if percent:
        value = float(percent[1].replace(",", "."))
        return Number(value, percent.end(), True, True) if value <= HUNDRED.top else None
    below = _LINE_BELOW.match(shadow, start)
    number = number_at(shadow, below.end() if below else start, HUNDRED)
    if number and below and not _NUMBER_ONLY.match(shadow, number.end):
        return None
    return number


_ACTION = r"(?i:keep|downsample|drop)"
_RECOMMENDATION = re.compile(
    rf"\s{{0,8}}+{_OPEN}({_ACTION})(?!\w|[{_HYPHENS}]\w)"
    rf"(?!{_CLOSE}\s{{0,4}}+(?:[|/,]|(?i:or|and|to)\b)\s{{0,4}}+[*_`\"'<(]{{0,4}}+{_ACTION}){_CLOSE}"
)
_CHOICE_GOES_ON = re.compile(r"[\W_]{0,8}(?:[|/,]|(?i:or|and|to)\b)")


def recommendation_at(shadow: str, start: int) -> tuple[str, int] | None:
    """`keep`, `downsample` or `drop` as the first word at `start`, and where it ends; an offered choice is none."""
    match = _RECOMMENDATION.match(shadow, start)
    return (match[1].lower(), match.end()) if match else None


_LITTLE = re.compile(r"[\W\d_]*+(?:[^\W\d_]{1,3}(?![^\W\d_])[\W\d_]*+)?")
_LITTLE_MAX = 64


def ends_text(shadow: str, end: int) -> bool:
    """Whether so little comes after a value that the text may have been cut inside it: its line has not ended and at
    most a short word follows, which might have become a range (`7/10 to 8/10`)."""
    rest = shadow[end : end + _LITTLE_MAX + 1]
    return len(rest) <= _LITTLE_MAX and "\n" not in rest and _LITTLE.fullmatch(rest) is not None


def choice_unfinished(shadow: str, end: int) -> bool:
    """Whether the text may have been cut inside a choice (`keep or dr`)."""
    rest = shadow[end : end + _LITTLE_MAX + 1]
    return ends_text(shadow, end) or (
        len(rest) <= _LITTLE_MAX and "\n" not in rest and _CHOICE_GOES_ON.match(rest) is not None
    )
