"""The key of a program is looked up once for each request: the gate asks for its account before the view does."""

from __future__ import annotations

from typing import Any

from rest_framework.authentication import TokenAuthentication

#: Attribute of Django's request: what was sent, and what the REST framework answered.
KEPT = "cluster_key_kept"


class KeyOnce(TokenAuthentication):
    """The REST framework's own, which remembers its answer as long as the request lasts; a refusal is no answer."""

    def authenticate(self, request: Any) -> Any:
        """Return account and key; None where no key was sent.

        :param request: the REST framework's, of which there are several around one of Django's.
        :raises AuthenticationFailed: as the framework's own does.
        """
        raw = request._request  # noqa: SLF001 - the framework documents it
        sent = request.META.get("HTTP_AUTHORIZATION")
        kept = getattr(raw, KEPT, None)
        if kept is None or kept[0] != sent:
            kept = (sent, super().authenticate(request))
            setattr(raw, KEPT, kept)
        return kept[1]
