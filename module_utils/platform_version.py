"""Changes of this repository that need something from the operator before a site may be deployed with it.

The file VERSION is raised with each of them; full runs of site.yml note it on the frontend. No Ansible import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

#: What a site without a note was deployed with.
BEFORE_NOTES: Final = 1
#: Goes on where the hosts were deployed with a newer version of this repository.
OLDER: Final = "older-repository"


@dataclass(frozen=True)
class BreakingChange:
    """One change: its name for ``breaking_change_read``, the version that brought it, and what has to be done."""

    name: str
    version: int
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
    """Return the version that a site was deployed with, from its note; None where nothing is deployed yet.

    Raises:
        ValueError: the note is no number.

    """
    if not text.strip():
        return BEFORE_NOTES if deployed else None
    return int(text)


def refusals(
    noted: int | None, version: int, read: Collection[str], changes: Sequence[BreakingChange] = BREAKING
) -> list[str]:
    """Return why a run must not go on, one text for each reason.

    Args:
        noted: what the site was deployed with; None for a bare one, which nothing breaks.
        version: what this repository is.
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
    if noted > version and OLDER not in read:
        found.append(
            f"{OLDER}: these hosts were deployed with version {noted} of this repository, and this is version "
            f"{version}. Take the newer one (git pull); where you mean to go back, its notes in CHANGELOG.md say how."
        )
    found += [
        f"{change.name}: {change.text}"
        for change in changes
        if noted < change.version <= version and change.name not in read
    ]
    return found
