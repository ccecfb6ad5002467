"""Logins: wrong passwords are bounded, administrators stay logged in for hours, and a link logs out.

The backend stands before those that know passwords (``LOGIN_BACKENDS`` in the settings), so that each way in is bounded
that asks them: the form, the administration, both logins of the REST interface. It cannot say why, so that the
middleware answers in the view's place. Without Redis nobody is counted, and logins go on: nginx's bound remains.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.contrib.auth.views import LogoutView
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.http import JsonResponse
from django.shortcuts import render
from django.utils.timezone import now
from django.utils.translation import get_language
from redis.exceptions import RedisError

from escriptorium_cluster.guesses import Guesses, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

#: Attribute of a request that was refused: seconds until another try.
WAIT = "cluster_login_wait"
#: Key of a session whose end is set.
BOUNDED = "cluster_session_bounded"
TOO_MANY = 429


def guesses() -> Guesses:
    """Return the counts, as the settings want them."""
    return Guesses(cache, settings.CLUSTER_LOGIN_FAILURES, settings.CLUSTER_LOGIN_LOCK_SECONDS)


def client_address(request: Any) -> str:
    """Return where a request comes from. nginx sets the header, and lets nobody else."""
    return str(request.META.get("HTTP_X_REAL_IP") or request.META.get("REMOTE_ADDR") or "")


class GuessBound:
    """The authentication backend that knows nobody, and stops the others when there were too many wrong passwords."""

    def authenticate(self, request: Any, username: str | None = None, **_: Any) -> None:
        """Let the next backend decide.

        :raises PermissionDenied: when the bound is reached; Django asks no other backend then.
        """
        if request is None or not username:
            return
        try:
            seconds = guesses().wait(username, client_address(request))
        except (RedisError, OSError):
            logger.warning("wrong passwords are not counted: Redis does not answer", exc_info=True)
            return
        if seconds:
            # The REST framework has a request of its own around Django's.
            setattr(getattr(request, "_request", request), WAIT, seconds)
            logger.warning("refused a login from %s: too many wrong passwords", client_address(request))
            raise PermissionDenied


def count_failure(credentials: Mapping[str, Any], request: Any = None, **_: Any) -> None:
    """Count a wrong password; what was refused is none."""
    username = credentials.get("username")
    if request is None or not username or hasattr(getattr(request, "_request", request), WAIT):
        return
    try:
        guesses().count(str(username), client_address(request))
    except (RedisError, OSError):
        logger.warning("a wrong password is not counted: Redis does not answer", exc_info=True)


def start_anew(request: Any, user: Any, **_: Any) -> None:
    """Forget wrong passwords after the right one, and let the middleware set the session's end anew."""
    request.session.pop(BOUNDED, None)
    try:
        guesses().forget(user.get_username(), client_address(request))
    except (RedisError, OSError):
        logger.warning("wrong passwords are not forgotten: Redis does not answer", exc_info=True)


def bound_session(request: Any) -> None:
    """Set the end of an administrator's session, once: whoever finds it open later has to log in.

    Not only at the login: somebody may become an administrator afterwards. A key of a program has no session.
    """
    session = request.session
    if not session.accessed or BOUNDED in session:
        return
    user = request.user
    administers = user.is_authenticated and (user.is_staff or user.is_superuser)
    if not administers or session.get(SESSION_KEY) != str(user.pk):
        return
    session[BOUNDED] = True
    session.set_expiry(now() + timedelta(hours=settings.CLUSTER_ADMIN_SESSION_HOURS))


class Logins:
    """The middleware."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Answer a request."""
        response = self.get_response(request)
        bound_session(request)
        seconds = getattr(request, WAIT, 0)
        return refuse(request, response, seconds) if seconds else response


def refuse(request: Any, response: Any, seconds: int) -> Any:
    """Return the answer to a login that was refused: a page, or JSON where the view answers with that."""
    text = refusal(seconds, get_language())
    headers = {"Retry-After": str(seconds), "Cache-Control": "no-store"}
    if response.headers.get("Content-Type", "").startswith("application/json"):
        return JsonResponse({"non_field_errors": [text]}, status=TOO_MANY, headers=headers)
    page = render(request, "escriptorium_cluster/login_refused.html", {"text": text}, status=TOO_MANY)
    for name, value in headers.items():
        page.headers[name] = value
    return page


class LogOut(LogoutView):
    """Logs out. Upstream's pages have a link for it, and Django takes a form only from version 5 on.

    A link of this site logs out, as the browser says that somebody clicked one there. Anything else is asked first: a
    page elsewhere, or an image, would log people out. A browser that says nothing (before 2023) is asked too.
    """

    http_method_names = ("get", "post", "options")
    template_name = "escriptorium_cluster/log_out.html"

    def get(self, request: Any, *arguments: Any, **options: Any) -> Any:
        """Log out after a click, ask else."""
        if clicked_here(request.headers):
            return self.post(request, *arguments, **options)
        return self.render_to_response(self.get_context_data(**options))


def clicked_here(headers: Mapping[str, str]) -> bool:
    """Whether a browser opens a page because of a link on a page of this site (W3C, Fetch Metadata Request Headers)."""
    said = tuple(headers.get(f"Sec-Fetch-{name}") for name in ("Site", "Mode", "Dest"))
    return said == ("same-origin", "navigate", "document")


def install() -> None:
    """Have Django tell of each login."""
    user_login_failed.connect(count_failure, dispatch_uid="cluster")
    user_logged_in.connect(start_anew, dispatch_uid="cluster")
