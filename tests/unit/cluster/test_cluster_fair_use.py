"""The decisions about one user's trainings: which slot, which message, which text."""

from __future__ import annotations

import base64
import json

import pytest
from escriptorium_cluster.fair_use import (
    HELD_HEADER,
    MOST_SLOTS,
    REQUEST_SPACE,
    SLOT_SPACE,
    HeldJob,
    free_slot,
    held_job,
    lock_number,
    marked,
    oldest_of_each,
)
from hypothesis import given
from hypothesis import strategies as st


def message(task_id: str, user: int, queue: str = "gpu", **headers: object) -> bytes:
    """Return a message as Celery sends it and kombu stores it."""
    body = json.dumps([[], {"model_pk": 1, "user_pk": user}, {"callbacks": None}])
    return json.dumps(
        {
            "body": base64.b64encode(body.encode()).decode(),
            "headers": {"id": task_id, "task": "core.tasks.train", **headers},
            "properties": {"delivery_info": {"exchange": "", "routing_key": queue}, "delivery_tag": "t"},
        }
    ).encode()


locks = st.tuples(
    st.sampled_from([SLOT_SPACE, REQUEST_SPACE]), st.integers(0, (1 << 32) - 1), st.integers(0, MOST_SLOTS)
)


@given(locks, locks)
def test_no_two_locks_are_one(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (lock_number(*one) == lock_number(*other)) == (one == other)
    assert 0 < lock_number(*one) < 1 << 63


@pytest.mark.parametrize("parts", [(0, 1, 1), (1 << 15, 1, 1), (1, -1, 1), (1, 1 << 32, 1), (1, 1, 1 << 16)])
def test_a_lock_that_would_be_anothers_is_refused(parts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no lock"):
        lock_number(*parts)


@given(st.integers(1, 9), st.sets(st.integers(0, 9)))
def test_a_slot_is_taken_once_and_no_other_is_asked_for(bound: int, busy: set[int]) -> None:
    asked = []

    def take(number: int) -> bool:
        asked.append(number & 0xFFFF)
        return asked[-1] not in busy

    slot = free_slot(7, bound, take)
    free = sorted(set(range(bound)) - busy)
    assert slot == (free[0] if free else None)
    assert asked == list(range(free[0] + 1 if free else bound))


def test_a_message_tells_whose_it_is_and_where_it_came_from() -> None:
    payload = message("one", 7, "gpu-large")
    assert held_job(payload) == HeldJob(payload, "one", 7, "gpu-large")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"{}",
        b'{"body": "%%%", "headers": {"id": 1}}',
        b'{"body": "W10=", "headers": {"id": "x"}}',
        b"\xff",
    ],
)
def test_a_message_that_cannot_be_read_is_nobodys(payload: bytes) -> None:
    assert held_job(payload) is None
    assert oldest_of_each([payload]) == []


def test_a_message_counts_how_often_it_is_held() -> None:
    once, before = marked(message("one", 7))
    assert before == 0
    twice, before = marked(once)
    assert before == 1
    assert json.loads(twice)["headers"][HELD_HEADER] == 2
    first, second = held_job(once), held_job(twice)
    assert first is not None
    assert second is not None
    assert (first.id, first.user, first.queue) == (second.id, second.user, second.queue) == ("one", 7, "gpu")


def test_each_user_has_one_turn_the_oldest_first() -> None:
    payloads = [message("a", 1), message("b", 2), message("c", 1), b"rubbish", message("d", 3, "gpu-large")]
    assert [job.id for job in oldest_of_each(payloads)] == ["a", "b", "d"]
    assert [job.id for job in oldest_of_each(payloads, {"gpu"})] == ["a", "b"]
    assert oldest_of_each(payloads, set()) == []


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["gpu", "gpu-large"]))))
def test_nobody_is_passed_over(jobs: list[tuple[int, str]]) -> None:
    payloads = [message(str(number), user, queue) for number, (user, queue) in enumerate(jobs)]
    found = oldest_of_each(payloads)
    assert [job.user for job in found] == list(dict.fromkeys(user for user, _ in jobs))
