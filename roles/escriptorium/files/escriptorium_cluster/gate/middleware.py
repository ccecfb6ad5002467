"""The gate's middleware: looks a view up in the table and asks before it runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, JsonResponse
from django.utils.translation import get_language

from escriptorium_cluster.gate import accounts, texts
from escriptorium_cluster.gate.checks import CHECKS, Asked
from escriptorium_cluster.gate.keys import BadKeyError, carries_key, find, number
from escriptorium_cluster.gate.rights import INSIDE, RIGHTS, Scope
from escriptorium_cluster.gate.rules import ASKED, READING, Rule
from escriptorium_cluster.gate.table import VIEWS
from escriptorium_cluster.texts import in_language

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

UNAUTHORIZED, MISSING = 401, 404
#: Part of an address that says in which format the REST interface answers.
FORMAT = "format"
ADMINISTRATION = "admin"


class RefusedError(Exception):
    """The request is not for its user; ``status`` is that of the answer, ``reason`` what is logged."""

    def __init__(self, reason: str, detail: str = "", status: int = 403) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.status = reason, detail, status


class LoginWantedError(Exception):
    """The request is nobody's; ``status`` and ``detail`` are those of the REST interface's answer."""

    def __init__(self, detail: str, status: int = UNAUTHORIZED) -> None:
        super().__init__(detail)
        self.detail, self.status = detail, status


def said(text: texts.Text, **values: object) -> str:
    """Return a text in the language of the request."""
    return in_language(text, get_language(), **values)


def view_name(view: Callable[..., Any], method: str) -> str:
    """Return the name of a view in the table: that of its class or function, with what it does where it does several.

    :param method: of the request; ``OPTIONS`` is like a look.
    """
    kind = getattr(view, "cls", None) or getattr(view, "view_class", None) or view
    name = f"{kind.__module__}.{kind.__qualname__}"
    actions = getattr(view, "actions", None)
    if not actions:
        return name
    wanted = method.lower()
    if wanted not in actions and wanted in {"options", "head"}:
        wanted = next(iter(actions)) if "get" not in actions else "get"
    # A method that the view does not have is answered with 405 there, and by nothing else.
    return f"{name}.{actions[wanted]}" if wanted in actions else ""


def is_rest(view: Callable[..., Any]) -> bool:
    """Whether a view is one of the REST framework's, which reads keys of programs itself."""
    return hasattr(getattr(view, "cls", None), "get_authenticators")


class Gate:
    """The middleware. Stands behind all that says who the user is."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response
        self.views: Mapping[str, Rule] = {**VIEWS, **settings.CLUSTER_GATE_VIEWS}

    def __call__(self, request: Any) -> Any:
        """Answer a request."""
        return self.get_response(request)

    def process_view(
        self, request: Any, view: Callable[..., Any], _: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> JsonResponse | Any | None:
        """Answer in the view's place where the request is not for its user."""
        rest = is_rest(view)
        try:
            self._ask(request, view, kwargs, rest)
        except LoginWantedError as wanted:
            if not rest:
                return redirect_to_login(request.get_full_path())
            answer = JsonResponse({"detail": wanted.detail}, status=wanted.status)
            if wanted.status == UNAUTHORIZED:
                answer["WWW-Authenticate"] = "Token"
            return answer
        except RefusedError as refused:
            logger.warning(
                "refused %s %s of user %s: %s", request.method, request.path, _number_of(request), refused.reason
            )
            detail = refused.detail or said(texts.NOT_FOUND if refused.status == MISSING else texts.NOT_YOURS)
            if rest:
                return JsonResponse({"detail": detail}, status=refused.status)
            if refused.status == MISSING:
                raise Http404(detail) from None
            raise PermissionDenied(detail) from None
        return None

    def _ask(self, request: Any, view: Callable[..., Any], kwargs: Mapping[str, Any], rest: bool) -> None:
        name = view_name(view, request.method)
        rule = self.views.get(name)
        programs = rest or (rule is not None and rule.programs)
        if not programs and "Token " in request.headers.get("Authorization", ""):
            self._forget_key(request)
        match = request.resolver_match
        if not rest and ADMINISTRATION in match.app_names:
            reason = accounts.admin_refusal(request.user, request.method, match.route, kwargs, request.POST)
            if reason:
                raise RefusedError(reason["en"], said(reason))
            return
        if not name:
            return
        reader = _Reader(request, view, kwargs) if rest else None
        if rule is None:
            self._ask_unknown(request, name, kwargs, reader)
            return
        strange = set(kwargs) - set(rule.url) - {FORMAT}
        if strange:
            raise RefusedError(f"{name} has parts in its address that the gate does not know: {sorted(strange)}")
        if self._asks_nothing(rule, request, kwargs):
            return
        user = reader.user() if reader else request.user
        if not user.is_authenticated:
            raise LoginWantedError(said(texts.LOG_IN))
        request.cluster_gate_user = user.pk
        data = (reader.data() if reader else request.POST) if rule.reads_body and request.method not in READING else {}
        try:
            self._ask_keys(Scope(user), rule, kwargs, request.GET, data)
            checked = rule.check and request.method not in READING
            reason = CHECKS[rule.check](Asked(user, request.method, kwargs, data)) if checked else texts.NOTHING_SAID
        except BadKeyError as error:
            raise RefusedError(f"{name}: {error}", said(texts.BAD_KEY, why=error), 400) from None
        if reason:
            raise RefusedError(f"{name}: {reason['en']}", said(reason))

    @staticmethod
    def _forget_key(request: Any) -> None:
        """Give a page the user of its session, whatever key comes along: programs send both.

        Upstream's middleware takes the user of a key for the user of every page, and asks only of that one whether the
        account has expired.
        """
        request.user = get_user(request)
        if accounts.has_expired(request.user):
            raise RefusedError("the account of the session has expired", said(texts.EXPIRED))

    @staticmethod
    def _asks_nothing(rule: Rule, request: Any, kwargs: Mapping[str, Any]) -> bool:
        """Whether the view is free to answer anybody: no key that it carries is asked for here."""
        rights = [rule.url[name] for name in kwargs if name != FORMAT]
        rights += [right for name, right in rule.query.items() if name in request.GET]
        writes = rule.reads_body and request.method not in READING
        return not writes and all(right == ASKED for right in rights)

    @staticmethod
    def _ask_keys(scope: Scope, rule: Rule, kwargs: Mapping[str, Any], query: Any, data: Any) -> None:
        named = [
            (name, wanted, _read_key(name, wanted, kwargs[name]))
            for name, wanted in rule.url.items()
            if wanted != ASKED and name in kwargs
        ]
        admitted = _admitted_at_once(scope, named)
        for name, wanted, key in named:
            right = RIGHTS[wanted]
            if name not in admitted and not right.admits(scope, {key}):
                raise RefusedError(f"{name}={key} is no {wanted}", status=right.status)
            if right.names and isinstance(key, int):
                scope.named[right.names] = key
        placed = [(place, right, query.getlist(place)) for place, right in rule.query.items()]
        placed += [(place, right, list(find(data, place))) for place, right in rule.body.items() if data]
        for place, wanted, values in placed:
            keys = {key for key in map(number, values) if key is not None} if wanted != ASKED else set()
            if keys and not RIGHTS[wanted].admits(scope, keys):
                raise RefusedError(f"{place} of the request names what is no {wanted}")

    @staticmethod
    def _ask_unknown(request: Any, name: str, kwargs: Mapping[str, Any], reader: _Reader | None) -> None:
        """Let a view that the table does not know answer, as long as the request carries no key."""
        carried = bool(set(kwargs) - {FORMAT}) or carries_key(dict(request.GET.lists()))
        if not carried and request.method not in READING:
            if reader:
                reader.user()
            data = reader.data() if reader else request.POST
            # What is no form and no JSON is not looked into.
            other = not (reader or request.content_type in FORMS)
            carried = other or carries_key(dict(data.lists()) if hasattr(data, "lists") else data)
        if carried:
            raise RefusedError(f"the gate does not know {name}", said(texts.UNKNOWN_VIEW, view=name))


def _read_key(name: str, wanted: str, text: Any) -> int | str:
    """Return what a part of an address names."""
    try:
        key = text if RIGHTS[wanted].column == "slug" else number(text)
    except BadKeyError:
        raise RefusedError(f"{name} is no number", status=MISSING) from None
    if key is None:
        raise RefusedError(f"{name} names no {wanted}", status=RIGHTS[wanted].status)
    return key


def _admitted_at_once(scope: Scope, keys: Sequence[tuple[str, str, Any]]) -> set[str]:
    """Return the names of the first two keys where one question admits both.

    What it does not admit is asked for one after the other: the answer is that of the first refusal.
    """
    if len(keys) < 2:  # noqa: PLR2004 - two
        return set()
    (first, outer, outer_key), (second, inner, inner_key) = keys[:2]
    column = INSIDE.get((outer, inner))
    if column is None or not RIGHTS[outer].admits_inside(scope, outer_key, RIGHTS[inner], inner_key, column):
        return set()
    return {first, second}


FORMS = ("", "application/x-www-form-urlencoded", "multipart/form-data")


def _number_of(request: Any) -> Any:
    return getattr(request, "cluster_gate_user", None) or getattr(request.user, "pk", None) or "nobody"


class _Reader:
    """Reads a request as the REST framework's view will: the same class, with the same parsers."""

    def __init__(self, request: Any, view: Any, kwargs: Mapping[str, Any]) -> None:
        made = view.cls(**getattr(view, "initkwargs", {}))
        made.action_map = getattr(view, "actions", None)
        made.request, made.args, made.kwargs = request, (), kwargs
        self.raw = request
        self.read = made.initialize_request(request, **kwargs)

    def user(self) -> Any:
        """Return who asks, by key or session.

        :raises LoginWantedError: where what was sent is refused.
        """
        from rest_framework.exceptions import APIException

        try:
            return self.read.user
        except APIException as error:
            raise LoginWantedError(str(error.detail), error.status_code) from None

    def data(self) -> Any:
        """Return the decoded body, and leave it to the view.

        :raises RefusedError: where it cannot be decoded.
        """
        from rest_framework.exceptions import APIException

        # Kept, so that the view can read it too: a form that is posted by Django itself, all else as it is.
        posted = self.raw.method == "POST" and self.raw.content_type in FORMS
        _ = self.raw.POST if posted else self.raw.body
        try:
            return self.read.data
        except APIException as error:
            raise RefusedError("the body cannot be read", str(error.detail), error.status_code) from None
