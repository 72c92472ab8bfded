"""The identity: where every record that was read is now, so that none can be lost unseen."""

from enum import StrEnum

from mira_stream.core.outcome import Outcome, Reason
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters


class Stage(StrEnum):
    """The places a record can be in between reading and publishing."""

    PREPARING = "preparing"
    WINDOW = "window"
    IN_FLIGHT = "in_flight"
    RECEIVING = "receiving"
    RECEIVED = "received"


class Account:
    """Counts of records: `read = ended + sum(stages)` after every call.

    Each stage is counted on its own, so a record that some code path forgets stays visible where it was left.
    """

    def __init__(self, meters: Meters) -> None:
        self.meters = meters
        self._stages = dict.fromkeys(Stage, 0)
        meters.refresh_with(self._refresh)

    @property
    def read(self) -> int:
        return int(self.meters.value(metrics.RECORDS_READ))

    @property
    def ended(self) -> int:
        return int(self.meters.sum(metrics.RECORDS_ENDED))

    def at(self, stage: Stage) -> int:
        """How many records are in that stage now."""
        return self._stages[stage]

    @property
    def in_pipeline(self) -> int:
        return sum(self._stages.values())

    @property
    def before_received(self) -> int:
        """Records that would have to be read again after a crash."""
        return self.in_pipeline - self._stages[Stage.RECEIVED]

    def outcomes(self) -> dict[Outcome, int]:
        """How many records ended how."""
        counts = dict.fromkeys(Outcome, 0)
        for (outcome, _), value in self.meters.values.get(metrics.RECORDS_ENDED, {}).items():
            counts[Outcome(outcome)] += int(value)
        return counts

    def enter(self, stage: Stage, records: int = 1) -> None:
        """Records were read (or recovered from the ledger) and are in `stage` now."""
        self.meters.add(metrics.RECORDS_READ, records)
        self._change(stage, records)

    def move(self, origin: Stage, target: Stage) -> None:
        """One record went on."""
        self._change(origin, -1)
        self._change(target, 1)

    def end(self, stage: Stage, outcome: Outcome, reason: Reason | None) -> None:
        """One record's outcome is published: by us, or by the rival whose segment was adopted."""
        self._change(stage, -1)
        labels = (outcome.value, reason.value if reason else "none")
        self.meters.add(metrics.RECORDS_ENDED, 1, labels)

    def _change(self, stage: Stage, records: int) -> None:
        count = self._stages[stage] + records
        assert count >= 0, f"{stage} would hold {count} records"
        self._stages[stage] = count

    def _refresh(self) -> None:
        for stage, count in self._stages.items():
            self.meters.set(metrics.RECORDS_IN_PIPELINE, count, (stage.value,))
