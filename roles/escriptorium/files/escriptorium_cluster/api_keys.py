"""Keys to the REST interface: which there are, and when they end.

Upstream's keys never expire, and survive that an account is closed and opened again, and a new password. Here a key
ends with each of these; the account makes another one by itself. That an expired account's key ends at its next use
is upstream's own, and that a closed account's opens nothing is the REST framework's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta


class Key(NamedTuple):
    """What is said of a key; never the key itself."""

    user: str
    made: datetime
    state: str


def ends_keys(before: dict[str, Any], now: dict[str, Any], fields: Iterable[str] | None) -> bool:
    """Whether a change of an account ends its key.

    :param before: password (its hash) and is_active as they were; ``now``: as they will be.
    :param fields: what alone is stored; None: all. Django stores a hash anew, alone, when it is made in a better way.
    """
    if before["is_active"] != now["is_active"]:
        return fields is None or "is_active" in fields
    return fields is None and before["password"] != now["password"]


def forget(sender: Any, instance: Any, raw: bool = False, update_fields: Any = None, **_: Any) -> None:
    """End the key of an account that is about to be stored; called by Django."""
    if raw or instance.pk is None or (update_fields is not None and "is_active" not in update_fields):
        return
    before = sender.objects.filter(pk=instance.pk).values("password", "is_active").first()
    now = {"password": instance.password, "is_active": instance.is_active}
    if before is not None and ends_keys(before, now, update_fields):
        _keys().filter(user=instance.pk).delete()


def install() -> None:
    """Have Django call ``forget`` before it stores an account."""
    from django.contrib.auth import get_user_model
    from django.db.models.signals import pre_save

    pre_save.connect(forget, sender=get_user_model(), dispatch_uid="escriptorium_cluster.api_keys")


def listed() -> list[Key]:
    """Return what is said of all keys, the oldest first."""
    return [
        Key(token.user.get_username(), token.created, _state(token.user))
        for token in _keys().select_related("user").order_by("created")
    ]


def _state(user: Any) -> str:
    from escriptorium_cluster.gate.accounts import has_expired

    if not user.is_active:
        return "account is closed"
    return "account is expired" if has_expired(user) else "opens the API"


def revoke(users: Sequence[str], older_than: timedelta | None, now: datetime) -> list[str]:
    """End the keys of some accounts, and all that are older than something; return whose they were."""
    from django.db.models import Q

    wanted = Q(user__username__in=users)
    if older_than is not None:
        wanted |= Q(created__lt=now - older_than)
    found = _keys().filter(wanted)
    names = sorted(found.values_list("user__username", flat=True))
    found.delete()
    return names


def _keys() -> Any:
    from rest_framework.authtoken.models import Token

    return Token.objects
