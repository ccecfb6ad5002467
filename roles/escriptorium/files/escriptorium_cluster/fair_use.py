"""Bounds on the trainings of one user: the decisions. Pure: no Django, no Celery, no database and no broker.

Two bounds, both off by default. The first counts what a user has queued or running, and refuses a request beyond it:
see ``requests_bound``. The second counts what runs: a training beyond it leaves its queue for ``HELD_QUEUE``, which
nobody consumes, and comes back when one of the user's trainings ends: see ``training_slots``.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

#: First 16 bits of the database's advisory locks, so that they are nobody else's: "EU" and "EV".
SLOT_SPACE = 0x4555
REQUEST_SPACE = 0x4556
#: Header of a message that has been held before; its value says how often.
HELD_HEADER = "cluster_held"
#: Slots that one user can have: the lowest 16 bits of a lock.
MOST_SLOTS = 1000

#: By language: why a request is refused, and why a job waits. ``{count}`` is what there is, ``{bound}`` what may be.
REFUSED = {
    "en": "You have {count} trainings queued or running; this site allows {bound} at a time. Wait until one has "
    "ended, or cancel one.",
    "fr": "Vous avez {count} entraînements en attente ou en cours ; ce site en permet {bound} à la fois. Attendez la "
    "fin de l'un d'eux, ou annulez-en un.",
    "de": "Sie haben {count} Trainings, die warten oder laufen; erlaubt sind {bound} auf einmal. Warten Sie das Ende "
    "eines Trainings ab, oder brechen Sie eines ab.",
}
BUSY = {
    "en": "An earlier request of yours is not answered yet. Try again in a moment.",
    "fr": "Une de vos demandes est encore en traitement. Réessayez dans un instant.",
    "de": "Eine frühere Anfrage von Ihnen ist noch nicht beantwortet. Versuchen Sie es gleich noch einmal.",
}
WAITS = "This training waits until another one of yours has ended: {bound} of them may run at a time."


def lock_number(space: int, user: int, slot: int = 0) -> int:
    """Return the 64-bit number of an advisory lock.

    :raises ValueError: when a part does not fit; a wrong number would be another user's.
    """
    if not (0 < space < 1 << 15 and 0 <= user < 1 << 32 and 0 <= slot < 1 << 16):
        raise ValueError(f"no lock for user {user}, slot {slot}")
    return space << 48 | user << 16 | slot


def free_slot(user: int, bound: int, take: Callable[[int], bool]) -> int | None:
    """Take a free slot of a user and return its number, or None when all are taken.

    :param take: takes the lock of a number unless somebody holds it.
    """
    return next((slot for slot in range(bound) if take(lock_number(SLOT_SPACE, user, slot))), None)


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A message that waits in ``HELD_QUEUE``: ``payload`` as Redis has it, ``queue`` is where it came from."""

    payload: bytes
    id: str
    user: int
    queue: str


def held_job(payload: bytes) -> HeldJob | None:
    """Return what a message says, or None when it cannot be read."""
    try:
        message = json.loads(payload)
        keywords = json.loads(base64.b64decode(message["body"]))[1]
        return HeldJob(
            payload,
            str(message["headers"]["id"]),
            int(keywords["user_pk"]),
            str(message["properties"]["delivery_info"]["routing_key"]),
        )
    except (binascii.Error, KeyError, IndexError, TypeError, ValueError):
        return None


def marked(payload: bytes) -> tuple[bytes, int]:
    """Return a message with the note that it is held, and how often it has been held before."""
    message: dict[str, Any] = json.loads(payload)
    before = int(message["headers"].get(HELD_HEADER) or 0)
    message["headers"][HELD_HEADER] = before + 1
    return json.dumps(message).encode(), before


def oldest_of_each(payloads: Iterable[bytes], queues: Collection[str] | None = None) -> list[HeldJob]:
    """Return the longest waiting job of each user, the longest waiting first.

    :param payloads: the held messages, the longest waiting first.
    :param queues: only jobs from these queues (all).
    """
    found: dict[int, HeldJob] = {}
    for payload in payloads:
        job = held_job(payload)
        if job is not None and (queues is None or job.queue in queues):
            found.setdefault(job.user, job)
    return list(found.values())
