"""Keeps jobs that are not the same when they are done twice from leaving anything twice when they start again.

A segmentation that does not override adds its lines to those of the page. So each line and region is noted under its
job when it is made, before its transaction ends. When the job starts again, pages that it had finished are left as they
are, whatever their users have done since, and from the page on which it was stopped it takes back its own rows, and
none of anybody else.

A transcription of several pages (an administrator may have set more than one for each job) would read those again
that it had finished, and put its text in the place of what users have corrected since. So it is run page by page, as
upstream does where each page is a job, and each page is noted under it when it has ended; the others are left.

Find and replace writes thousands of lines at once, and nothing says which. It is not started again: it fails, and its
user reads why.
"""

from __future__ import annotations

import functools
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from escriptorium_cluster.patience import patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)

SEGMENT = "core.tasks.segment"
TRANSCRIBE = "core.tasks.transcribe"
REPLACE = "core.tasks.replace_line_transcriptions_text"
#: Models whose rows a segmentation makes. Lines point to regions.
KINDS = ("Line", "Block")
#: Prefix of the notes' names in the cache.
KEY_PREFIX = "cluster:made:"
PAGES_PREFIX = "cluster:pages:"
#: Seconds for which the notes of a job are kept that has come to its end and could not say so yet.
KEEP_SECONDS = 86400


class HalfDoneError(RuntimeError):
    """A job that cannot be done twice was stopped half-way; it ends as failed and is not started again."""

    def __init__(self) -> None:
        super().__init__(
            "stopped half-way, because its worker or the database was lost, and not started again: that could replace"
            " a second time. Some lines may hold the new text and others still the old one. Look at them, and search"
            " again for what is left."
        )


def once_only(name: str, run: Callable[..., Any], job: Callable[[], str]) -> Callable[..., Any]:
    """Return what runs a task in such a way that a job of it leaves nothing twice.

    :param name: the task's.
    :param job: returns the task id of the job that runs.
    """

    @functools.wraps(run)
    def segment(*arguments: Any, **options: Any) -> Any:
        pages = _pages(options)
        left = pages_left(job(), pages)
        if pages and not left:
            logger.warning("job %s had segmented all its pages when it was stopped", job())
            return None
        if "instance_pks" in options:
            options["instance_pks"] = left
        with noting(job()):
            return run(*arguments, **options)

    @functools.wraps(run)
    def transcribe(*arguments: Any, **options: Any) -> Any:
        pages = _pages(options)
        if len(pages) < 2:  # noqa: PLR2004 - one that is done is done (see again.py)
            return run(*arguments, **options)
        finished = _finished_pages(job())
        answer = None
        for page in pages:
            if page in finished:
                continue
            lost = patience.losses
            answer = run(*arguments, **options | {"instance_pks": [page]})
            # It may have kept to itself that it lost its database; then it is begun anew.
            if patience.losses == lost:
                finished.append(page)
                _note_pages(job(), finished)
        return answer

    @functools.wraps(run)
    def replace(*arguments: Any, **options: Any) -> Any:
        if not _first_start(job()):
            raise HalfDoneError
        return run(*arguments, **options)

    return {SEGMENT: segment, TRANSCRIBE: transcribe, REPLACE: replace}.get(name, run)


def pages_left(job: str, pages: Sequence[int]) -> list[int]:
    """Return the pages that a segmentation has still to do, without what it has left on one that it had not finished.

    :param pages: primary keys of all its pages.
    """
    noted = _noted(job)
    return [page for page in pages if not _finished(page, noted)] if noted else list(pages)


@contextmanager
def noting(job: str) -> Iterator[None]:
    """Note under a job which lines and regions this process makes."""
    from django.apps import apps
    from django.conf import settings
    from django.core.cache import cache
    from django.db.models.signals import post_save

    made = _noted(job)

    def note(sender: Any, instance: Any, *, created: bool, **_: Any) -> None:
        if created:
            made.setdefault(sender.__name__, []).append(instance.pk)
            _try(lambda: cache.set(KEY_PREFIX + job, made, timeout=settings.CELERY_VISIBILITY_TIMEOUT))

    models = [apps.get_model("core", kind) for kind in KINDS]
    for model in models:
        post_save.connect(note, sender=model, weak=False, dispatch_uid=KEY_PREFIX)
    try:
        yield
    finally:
        for model in models:
            post_save.disconnect(sender=model, dispatch_uid=KEY_PREFIX)
    _try(lambda: cache.touch(KEY_PREFIX + job, KEEP_SECONDS))


def _pages(options: Mapping[str, Any]) -> list[int]:
    """Return the pages that a segmentation is asked for: one or, in newer versions, some."""
    one = options.get("instance_pk")
    return list(options.get("instance_pks") or ([one] if one else []))


def _finished(page: int, noted: Mapping[str, Sequence[int]]) -> bool:
    """Whether a job has finished a page; what it has made on one that it has not is removed."""
    from django.apps import apps

    rows = [
        apps.get_model("core", kind).objects.filter(pk__in=noted.get(kind, ()), document_part_id=page) for kind in KINDS
    ]
    if not any(found.exists() for found in rows):
        return False
    parts = apps.get_model("core", "DocumentPart")
    if parts.objects.filter(pk=page, workflow_state__gte=parts.WORKFLOW_STATE_SEGMENTED).exists():
        return True
    for found in rows:
        found.delete()
    return False


def _finished_pages(job: str) -> list[int]:
    from django.core.cache import cache

    return list(_try(lambda: cache.get(PAGES_PREFIX + job)) or ())


def _note_pages(job: str, pages: Sequence[int]) -> None:
    from django.conf import settings
    from django.core.cache import cache

    _try(lambda: cache.set(PAGES_PREFIX + job, list(pages), timeout=settings.CELERY_VISIBILITY_TIMEOUT))


def _noted(job: str) -> dict[str, list[int]]:
    from django.core.cache import cache

    return _try(lambda: cache.get(KEY_PREFIX + job)) or {}


def _first_start(job: str) -> bool:
    from django.conf import settings
    from django.core.cache import cache

    return _try(lambda: cache.add(KEY_PREFIX + job, {}, timeout=settings.CELERY_VISIBILITY_TIMEOUT)) is not False


def _try(ask: Callable[[], Any]) -> Any:
    """Ask the cache; None where it is away: a job must not fail because nothing could be noted."""
    try:
        return ask()
    except Exception:
        logger.warning("could not note what a job has done", exc_info=True)
        return None
