"""What makes the aggregate of live rows: `[aggregate]` and its masks, held against the rubrics of the pools."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mira_stream.core.aggregate import Aggregator
from mira_stream.core.errors import Refusal
from mira_stream.core.mask import Mask, parse_mask
from mira_stream.daemon.config import AggregateSection
from mira_stream.daemon.pools import PoolPlan


def load_aggregators(section: AggregateSection, plans: Sequence[PoolPlan]) -> Mapping[str, Aggregator]:
    """By rubric fingerprint; none unless enabled. Raises Refusal for a mask of no pool's rubric, or two of one."""
    if not section.enabled:
        return {}
    groups = {plan.rubric.fingerprint: plan.group for plan in plans}
    masks: dict[str, Mask] = {}
    for name in section.masks:
        mask = _read(Path(name).expanduser())
        if mask.rubric_fingerprint not in groups:
            known = ", ".join(f"{group} {fingerprint}" for fingerprint, group in groups.items())
            raise Refusal(
                f"[aggregate] masks: {name} is for rubric {mask.rubric_fingerprint}, which no pool scores on ({known})",
                "make one for this rubric with `mira-stream reliability`, or take the old anchors back",
            )
        if mask.rubric_fingerprint in masks:
            raise Refusal(
                f"[aggregate] masks: {name} is a second mask of one rubric", "leave one of them out"
            )
        masks[mask.rubric_fingerprint] = mask
    return {fingerprint: Aggregator(section, masks.get(fingerprint)) for fingerprint in groups}


def _read(path: Path) -> Mask:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refusal(
            f"[aggregate] masks: cannot read {path}: {error.strerror}", "give the path of a mask file"
        ) from error
    return parse_mask(data, str(path))
