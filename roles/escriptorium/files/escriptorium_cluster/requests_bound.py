"""Refuses a training beyond what one user may have queued and running, before anything is made for it.

Upstream's views make a model, its rows and a task group before they send the job: an exception at that moment would
leave them behind. Hence a middleware, which knows by the view that a training is asked for. It answers as upstream
does where a form is wrong (status 400), so that the page and programs show the reason.

What counts are reports of jobs, which upstream's REST interface lets each user write, delete and put another name on.
Nobody does so here, bound or not: whether a job is done, waits or was cancelled is read from them.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.db import connection
from django.http import JsonResponse
from django.utils.translation import get_language

from escriptorium_cluster.cancelled import cancelled
from escriptorium_cluster.config import TRAININGS
from escriptorium_cluster.fair_use import BUSY, REFUSED, REQUEST_SPACE, lock_number
from escriptorium_cluster.gate.rules import READING
from escriptorium_cluster.gate.texts import JOBS_REPORTS
from escriptorium_cluster.texts import in_language

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

#: The word that both kinds of views use for each kind of training: the last part of the task's name.
WORDS = frozenset(name.rpartition(".")[2] for name in TRAININGS)
#: Name of upstream's address for the forms of the web pages.
FORM_ADDRESS = "document-parts-process"
#: Part of the application that has the reports of jobs.
REPORTS = "reporting"
#: Seconds that a request waits for an earlier one of the same user, and between two looks.
WAIT_SECONDS = 5.0
PAUSE_SECONDS = 0.1


def asks_for_training(request: Any, view: Callable[..., Any]) -> str:
    """Return ``api`` or ``form`` when a request is for a training, by the kind of its view; else nothing."""
    if request.method != "POST":
        return ""
    if (getattr(view, "actions", None) or {}).get("post") in WORDS:
        return "api"
    if getattr(request.resolver_match, "url_name", None) == FORM_ADDRESS and request.POST.get("task") in WORDS:
        return "form"
    return ""


def asking_user(request: Any, view: Callable[..., Any]) -> Any:
    """Return who asks, or None when nobody is logged in.

    The REST framework reads the keys of programs in the view only, and before the session.
    """
    kind = getattr(view, "cls", None)
    if kind is None or "Authorization" not in request.headers:
        return request.user if request.user.is_authenticated else None
    from rest_framework.exceptions import APIException
    from rest_framework.request import Request

    try:
        user = Request(request, authenticators=kind().get_authenticators()).user
    except APIException:
        # The view refuses it, with a better message.
        return None
    return user if user.is_authenticated else None


def unfinished(user: Any) -> int:
    """Return how many trainings a user has queued or running. Upstream makes a report for each page of one."""
    report = apps.get_model("reporting", "TaskReport")
    states = (report.WORKFLOW_STATE_QUEUED, report.WORKFLOW_STATE_STARTED)
    found = report.objects.filter(user=user, method__in=TRAININGS, workflow_state__in=states)
    jobs = set(found.values_list("task_id", flat=True))
    return len(jobs - cancelled(jobs))


def _unlock(number: int) -> None:
    """Free a lock. One of a connection that was lost meanwhile is free already."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [number])
    except Exception:
        logger.warning("could not free the lock of a request", exc_info=True)


def _refuse(kind: str, reason: str) -> JsonResponse:
    """Return the answer, in one of the two shapes of upstream's errors: an object, and the same as text."""
    error = {"non_field_errors": [reason]} if kind == "api" else json.dumps({"__all__": [reason]})
    return JsonResponse({"status": "error", "error": error}, status=400)


class ReportsAreRead:
    """The middleware that lets nobody write reports of jobs by the REST interface."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Answer a request."""
        return self.get_response(request)

    def process_view(self, request: Any, view: Callable[..., Any], _: Sequence[Any], __: Mapping[str, Any]) -> Any:
        """Answer in the view's place when it would write a report."""
        model = getattr(getattr(getattr(view, "cls", None), "queryset", None), "model", None)
        if request.method in READING or model is None or model._meta.app_label != REPORTS:  # noqa: SLF001 - Django documents it
            return None
        detail = in_language(JOBS_REPORTS, get_language())
        return JsonResponse({"detail": detail}, status=405, headers={"Allow": ", ".join(READING)})


class TrainingsBound:
    """The middleware that counts."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Answer a request; what ``process_view`` has locked is free afterwards."""
        try:
            return self.get_response(request)
        finally:
            number = getattr(request, "cluster_trainings_lock", None)
            if number is not None:
                _unlock(number)

    def process_view(self, request: Any, view: Callable[..., Any], _: Sequence[Any], __: Mapping[str, Any]) -> Any:
        """Answer in the view's place when the user has too many trainings."""
        kind = asks_for_training(request, view)
        user = asking_user(request, view) if kind else None
        if user is None:
            return None
        if not self._locked(request, user):
            return _refuse(kind, in_language(BUSY, get_language()))
        count, bound = unfinished(user), settings.CLUSTER_USER_TRAININGS
        if count < bound:
            return None
        logger.info("refused a training of user %s: %s of %s", user.pk, count, bound)
        return _refuse(kind, in_language(REFUSED, get_language(), count=count, bound=bound))

    @staticmethod
    def _locked(request: Any, user: Any) -> bool:
        """Let one request of a user after the other count and send, so that two at once do not both pass.

        False after a while: slow answers must not hold up all the processes of the web server.
        """
        number = lock_number(REQUEST_SPACE, user.pk)
        end = time.monotonic() + WAIT_SECONDS
        with connection.cursor() as cursor:
            while True:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [number])
                if cursor.fetchone()[0]:
                    request.cluster_trainings_lock = number
                    return True
                if time.monotonic() > end:
                    return False
                time.sleep(PAUSE_SECONDS)
