"""Changes of this repository that need something from the operator before a site may be deployed with it.

The file BREAKING_CHANGES counts them; full runs of site.yml note that number on the frontend. The version of this
repository, in VERSION, is another thing: people read it, and no run asks for it. No Ansible import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

#: Number of a site that was deployed before there were notes.
BEFORE_NOTES: Final = 1
#: Goes on where the hosts were deployed with a newer version of this repository.
OLDER: Final = "older-repository"


@dataclass(frozen=True)
class BreakingChange:
    """One change: its name for ``breaking_change_read``, its number, and what has to be done."""

    name: str
    number: int
    text: str


BREAKING: Final = (
    BreakingChange(
        "segmentation-queue",
        2,
        "Segmentation trainings wait in a queue of their own now. Those that wait in the queue gpu stay there: let "
        "them end (playbooks/show-status.yml) before you cut cards into small slices.",
    ),
)


def note_of(text: str, deployed: bool) -> int | None:
    """Return the number that a site was deployed with, from its note; None where nothing is deployed yet.

    Raises:
        ValueError: the note is no number.

    """
    if not text.strip():
        return BEFORE_NOTES if deployed else None
    return int(text)


def refusals(
    noted: int | None, number: int, read: Collection[str], changes: Sequence[BreakingChange] = BREAKING
) -> list[str]:
    """Return why a run must not go on, one text for each reason.

    Args:
        noted: number that the site was deployed with; None for a bare one, which nothing breaks.
        number: number of this repository.
        read: names of the changes that the operator has seen to.
        changes: all that there are.

    """
    known = {change.name for change in changes} | {OLDER}
    found = [
        f"breaking_change_read={name}: there is none of this name; there are: {', '.join(sorted(known))}"
        for name in sorted(set(read) - known)
    ]
    if noted is None:
        return found
    if noted > number and OLDER not in read:
        found.append(
            f"{OLDER}: these hosts were deployed with a newer version of this repository (breaking change {noted}; the "
            f"newest here is {number}). Take that one (git pull); where you mean to go back, its notes in CHANGELOG.md "
            "say how."
        )
    found += [
        f"{change.name}: {change.text}"
        for change in changes
        if noted < change.number <= number and change.name not in read
    ]
    return found
