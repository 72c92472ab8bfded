"""Whom the failures at a replica point at: a record, if it alone fails where others are answered; else nobody."""


class Blame:
    """The failures of one replica since its last answer.

    They point at a record if the replica has answered somebody before, and since then only this record failed, each
    time as the only request there. A replica that fails everybody never points at anybody.
    """

    __slots__ = ("_certain", "_ticket")

    def __init__(self) -> None:
        self._ticket: int | None = None
        self._certain = False

    def answered(self) -> None:
        """Somebody was answered: what fails from now on is not explained by the replica's state."""
        self._ticket, self._certain = None, True

    def failed(self, ticket: int, *, alone: bool) -> None:
        """The request of that record failed; `alone` if it was the only one there from start to end."""
        self._certain &= alone and self._ticket in (None, ticket)
        self._ticket = ticket

    def on(self, ticket: int) -> bool:
        """Whether the failures here point at this record and at nothing else."""
        return self._certain and self._ticket == ticket
