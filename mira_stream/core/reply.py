"""Reads a scorer's reply: fifteen scores with rationales and four tail values, or exactly what is missing.

The text is untrusted: any string parses, in time linear in its length, and no number is made up. What is not clearly
said is missing.
"""

import re

import msgspec

from mira_stream.core.outcome import Reason
from mira_stream.core.reply_exact import ExactReply, read_exact
from mira_stream.core.reply_labels import TAIL, Label, labels
from mira_stream.core.reply_thinking import strip_thinking
from mira_stream.core.reply_values import BLANK, DASHES, plain_forms
from mira_stream.core.row import SLOTS, Rationales, Scores


class ParsedReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a reply says. Scores are 0…10, `overall` is 0…100; `missing` spells `A3`, `A3.rationale`, `overall`, ….

    `complete`: every score, `overall` and `training_recommendation` are there. If not, `reason` is what the record is
    dead-lettered with once asking again is over.
    """

    scores: Scores  # type: ignore[valid-type]  # a struct made by defstruct
    rationales: Rationales  # type: ignore[valid-type]
    overall: float | None
    training_recommendation: str | None
    domain_tag: str | None
    brief: str | None
    missing: tuple[str, ...]
    complete: bool
    reason: Reason | None


_CUT = ("length", "repetition")
"""Finish reasons of a reply that would have gone on."""


def parse(text: str, finish_reason: str | None, slots: tuple[str, ...] = SLOTS) -> ParsedReply:
    """Read `text`; `slots` are the rubric's, all of them required. Never raises for any text.

    At `finish_reason` `length` or `repetition` whatever the cut may have changed is missing: a value that ends the text,
    the last rationale, an unfinished line of the tail.
    """
    cut = finish_reason in _CUT
    if not cut and (exact := read_exact(text, slots)) is not None:
        return _complete(exact, slots)
    return parse_tolerantly(text, slots, cut=cut)


def parse_tolerantly(text: str, slots: tuple[str, ...], *, cut: bool) -> ParsedReply:
    """Read any text, `cut` off by the longest length or not."""
    # The leading newline gives the first line the same left edge as all others.
    page = "\n" + strip_thinking(_encodable(text))
    values, texts = _collect(page, cut=cut)
    return _assemble(values, texts, slots, cut=cut)


def _complete(exact: ExactReply, slots: tuple[str, ...]) -> ParsedReply:
    return ParsedReply(
        scores=Scores(**dict(zip(slots, exact.scores, strict=True))),
        rationales=Rationales(**dict(zip(slots, exact.rationales, strict=True))),
        overall=exact.overall,
        training_recommendation=exact.training_recommendation,
        domain_tag=exact.domain_tag,
        brief=exact.brief,
        missing=(),
        complete=True,
        reason=None,
    )


def _encodable(text: str) -> str:
    """`text` with U+FFFD for lone surrogates, so that every value can be written down."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


_JSON_START = re.compile(r"\s*+(?:```\w{0,12}\s*+)?(?:\{|\[\s*+[\[{\"])")

_Value = float | str | None


def _collect(page: str, *, cut: bool) -> tuple[dict[str, _Value], dict[str, str]]:
    """What each field is said to be (None where sayings conflict), and the texts: rationales by slot, tag, brief."""
    values: dict[str, _Value] = {}
    texts: dict[str, str] = {}
    shadow = plain_forms(page)
    found = [] if _JSON_START.match(shadow) else labels(shadow, cut=cut)
    for number, label in enumerate(found):
        last = number + 1 == len(found)
        end = len(page) if last else found[number + 1].start
        if label.value is not None:
            values[label.field] = label.value if values.get(label.field, label.value) == label.value else None
        if label.field not in texts and (text := _text_of(page[label.text : end], label, cut=cut and last)):
            texts[label.field] = text
    return values, texts


def _text_of(raw: str, label: Label, *, cut: bool) -> str | None:
    """The rationale, tag or brief in `raw`; None where it is empty, an echoed placeholder, or `cut` off."""
    if label.field in ("domain_tag", "brief"):
        line, ended, _ = raw.lstrip().partition("\n")
        return None if cut and not ended else _clean(line, label.field)
    # Without a score there is no place where a rationale begins; the other tail values have no text.
    return None if cut or label.field in TAIL or label.value is None else _clean(raw, label.field)


_LEAD = re.compile(rf"(?:[*_`]{{1,3}}(?=\s))?\s*+(?:[:;,.=|!→]{{1,2}}(?!\w)|[：；，。、｜])?[\s>→{DASHES}]*+")
_REASON_WORD = re.compile(
    rf"[*_]{{0,3}}(?i:rationale|justification|reason)[*_]{{0,3}}{BLANK}?[:：][*_]{{0,3}}{BLANK}{{0,4}}"
)
_PLACEHOLDER = re.compile(r"<[^<>\n]{0,120}>\.?|\{[^{}\n]{0,120}\}\.?|[.…]+|\W")
_TRAIL = " \t\r\n|" + DASHES.removeprefix("\\")
_QUOTES = "*_`\"'"


def _clean(raw: str, field: str) -> str | None:
    """`raw` without what only sets it apart: dashes, white space, unpaired bold, code fences, `Rationale:`."""
    lead = _LEAD.match(raw)
    text = raw[lead.end() if lead else 0 :].rstrip(_TRAIL)
    if text.endswith("```"):
        text = text.rstrip("`").rstrip(_TRAIL)
    if field == "domain_tag":
        text = text.strip(_TRAIL + _QUOTES).rstrip(".,;")
    else:
        word = _REASON_WORD.match(text)
        text = _without_unpaired_bold(text[word.end() if word else 0 :])
    return None if not text or _PLACEHOLDER.fullmatch(text) else text


def _without_unpaired_bold(text: str) -> str:
    if text.count("**") % 2 == 0:
        return text
    return text.removeprefix("**").lstrip() if text.startswith("**") else text.removesuffix("**").rstrip()


def _assemble(
    values: dict[str, _Value], texts: dict[str, str], slots: tuple[str, ...], *, cut: bool
) -> ParsedReply:
    scores = {slot: values.get(slot) for slot in slots}
    rationales = {slot: texts.get(slot) if scores[slot] is not None else None for slot in slots}
    tail = {field: values.get(field) for field in TAIL[:2]} | {field: texts.get(field) for field in TAIL[2:]}
    missing: list[str] = []
    for slot in slots:
        missing += [slot] if scores[slot] is None else []
        missing += [f"{slot}.rationale"] if rationales[slot] is None else []
    missing += [field for field in TAIL if tail[field] is None]
    complete = None not in scores.values() and tail[TAIL[0]] is not None and tail[TAIL[1]] is not None
    incomplete = Reason.CUT_REPLY if cut else Reason.MALFORMED_REPLY
    return ParsedReply(
        scores=Scores(**scores),
        rationales=Rationales(**rationales),
        missing=tuple(missing),
        complete=complete,
        reason=None if complete else incomplete,
        **tail,  # type: ignore[arg-type]  # TAIL spells the four fields, each with its own kind of value
    )
