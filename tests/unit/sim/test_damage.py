"""Damaged replies: as many as asked for, mended by asking again, and as bad as their kind says."""

from collections import Counter

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.core.reply import parse
from mira_stream.sim.damage import FATAL, Damage, DamagePlan, damage_kinds, damaged
from mira_stream.sim.replies import Prompt, judge, split_prompt, text_hash
from mira_stream.sim.scorer import Scorer

RECORDS = 2_000
TEMPLATE = "\n".join(f"[A{number}] Name {number}: <score>/10 — <justification>" for number in range(1, 16))


def prompt(number: int) -> Prompt:
    return split_prompt(f"record {number}: it works\n\n{TEMPLATE}")


def scorer(share: float, *, seed: int = 0, kinds: tuple[str, ...] = ()) -> Scorer:
    return Scorer(DamagePlan(share, damage_kinds(kinds), seed))


def damages(subject: Scorer) -> list[Damage | None]:
    """What happens to each of the records, asked once."""
    return [
        subject.complete(prompt(number), max_tokens=1024, stops=[], keep_stop=False).damage
        for number in range(RECORDS)
    ]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_the_share_of_damage_is_the_one_chosen(share: float) -> None:
    """Over 2,000 records the damaged share is within four standard deviations of the chosen one."""
    found = sum(damage is not None for damage in damages(scorer(share))) / RECORDS
    assert abs(found - share) <= 4 * (share * (1 - share) / RECORDS) ** 0.5


def test_all_kinds_occur_about_equally_often() -> None:
    """Without a choice of kinds each one strikes; no kind is rare."""
    counts = Counter(damages(scorer(1.0)))
    assert set(counts) == set(Damage)
    assert min(counts.values()) > RECORDS / len(Damage) / 2


def test_only_the_chosen_kinds_occur() -> None:
    """`damage_kinds` narrows the choice."""
    assert set(damages(scorer(1.0, kinds=("json", "bold")))) == {Damage.JSON, Damage.BOLD}


def test_damage_depends_on_the_seed_and_on_nothing_else() -> None:
    """Equal seeds damage equal records, another seed damages others."""
    assert damages(scorer(0.3)) == damages(scorer(0.3))
    assert damages(scorer(0.3)) != damages(scorer(0.3, seed=1))


def test_asking_again_helps() -> None:
    """Each time a record is asked about the dice are thrown anew: after three tries few stay damaged."""
    subject = scorer(0.3)
    tries = [damages(subject) for _ in range(3)]
    stubborn = sum(all(column) for column in zip(*tries, strict=True)) / RECORDS
    assert 0.005 < stubborn < 0.06  # 0.3³ = 0.027


@pytest.mark.parametrize("kind", list(Damage))
def test_fatal_damage_loses_a_required_value_and_other_damage_none(kind: Damage) -> None:
    """What the tolerant reader makes of each kind is what `FATAL` says; scores that survive are the scorer's own."""
    for number in range(60):
        parts = prompt(number)
        digest = text_hash(parts.record)
        judgement = judge(parts, digest)
        text = damaged(judgement, kind, max_tokens=1024, pick=digest[0])
        reply = parse(text[: 3 * 1024], "length" if kind is Damage.RUNAWAY else "stop")
        assert reply.complete is (kind not in FATAL), text
        if reply.complete and kind is not Damage.DECIMALS:
            assert [getattr(reply.scores, slot) for slot, _ in judgement.slots] == list(judgement.scores)


def test_a_runaway_fills_its_budget() -> None:
    """A reply that repeats itself ends by `length` after exactly `max_tokens`."""
    completion = scorer(1.0, kinds=("runaway",)).complete(
        prompt(1), max_tokens=1500, stops=[], keep_stop=False
    )
    assert (completion.finish_reason, completion.tokens) == ("length", 1500)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    """A misspelt kind names the right ones."""
    with pytest.raises(Refusal, match="no damage 'jsn'") as refusal:
        damage_kinds(("jsn",))
    assert "json" in refusal.value.hint
