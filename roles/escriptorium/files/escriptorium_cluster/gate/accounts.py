"""What accounts may change of themselves, what members of staff of others, and who stays out of the administration.

An account changes first name, last name and settings of the interface: a name or an address that an institution's
login, or a lost password, goes by is changed by administrators. A member of staff is no superuser: nothing of theirs
makes one, or takes one's account over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.admin.utils import unquote
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from escriptorium_cluster.gate.rules import READING
from escriptorium_cluster.gate.texts import ACCOUNT_KEYS, KEEP, NOTHING_SAID, POWERFUL, SUPERUSERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from escriptorium_cluster.gate.texts import Text

#: What each account changes of itself. The rest of what a form sends has to be as it is.
OWN_FIELDS = frozenset({"first_name", "last_name", "legacy_mode"})
#: Fields of the administration's form that make an account more powerful.
POWERS = ("is_superuser", "is_staff")
#: What a form carries beside fields.
_FORM_FIELDS = frozenset({"csrfmiddlewaretoken"})


def changes(user: Any, data: Mapping[str, Any]) -> list[str]:
    """Return the fields of a body that would be other than they are, beside those that each account may change."""
    names = [name for name in data if name not in OWN_FIELDS | _FORM_FIELDS]
    return sorted(name for name in names if _differs(getattr(user, name, None), data[name]))


def _differs(stored: Any, given: Any) -> bool:
    if isinstance(stored, bool):
        return str(given).strip().lower() not in ({"true", "1", "on"} if stored else {"false", "0", "off", ""})
    return str(stored if stored is not None else "") != str(given if given is not None else "").strip()


def has_expired(user: Any) -> bool:
    """Whether an account's time is over, as upstream says; Django's own, and nobody, have no end."""
    expired = getattr(user, "is_account_expired", None)
    return expired is not None and bool(expired())


def account_refusal(user: Any, method: str, target: object, data: Mapping[str, Any]) -> Text:
    """Return why a request of the REST interface may not write an account; nothing where it may.

    :param target: the key in the address; None where an account is made.
    """
    if user.is_superuser:
        return NOTHING_SAID
    if target is None:
        # Upstream lets members of staff make accounts, and no superusers by this way.
        return NOTHING_SAID if user.is_staff else KEEP
    if str(target) == str(user.pk):
        return KEEP if method == "DELETE" or changes(user, data) else NOTHING_SAID
    if not user.is_staff:
        return KEEP
    return SUPERUSERS if _are_superusers([target]) else NOTHING_SAID


def _are_superusers(keys: list[Any]) -> bool:
    """Whether one of some accounts is a superuser's; a key that is none counts as one."""
    if not all(str(key).isascii() and str(key).isdigit() for key in keys):
        return True
    return bool(get_user_model().objects.filter(pk__in=keys, is_superuser=True).exists())


def admin_refusal(user: Any, method: str, route: str, kwargs: Mapping[str, Any], form: Any) -> Text:
    """Return why a member of staff may not use a page of the administration site; nothing where they may.

    :param route: the page's address as it is declared, as ``admin/users/user/<path:object_id>/change/``.
    :param form: fields that were sent.
    """
    if user.is_superuser or not user.is_staff:
        # Who is not of the staff is refused by the site itself.
        return NOTHING_SAID
    part = "/" + route
    if "/authtoken/" in part:
        return ACCOUNT_KEYS
    if method in READING:
        return NOTHING_SAID
    if "/auth/group/" in part:
        return POWERFUL if form.getlist("permissions") else NOTHING_SAID
    model = get_user_model()._meta  # noqa: SLF001 - Django documents it
    if f"/{model.app_label}/{model.model_name}/" not in part:
        return NOTHING_SAID
    return _account_form_refusal(kwargs.get("object_id", kwargs.get("id")), form)


def _account_form_refusal(key: Any, form: Any) -> Text:
    """Return why a form about accounts is refused: of one, or of those that an action of the list is for."""
    targets = [unquote(str(key))] if key is not None else form.getlist("_selected_action")
    if form.get("select_across") == "1" or (targets and _are_superusers(targets)):
        return SUPERUSERS
    target = get_user_model().objects.filter(pk=targets[0]).first() if key is not None else None
    if any(form.get(name) and not getattr(target, name, False) for name in POWERS):
        return POWERFUL
    held = set(target.user_permissions.values_list("pk", flat=True)) if target else set()
    if not set(form.getlist("user_permissions")) <= {str(pk) for pk in held}:
        return POWERFUL
    joined = [text for text in form.getlist("groups") if text.isascii() and text.isdigit()]
    powerful = Group.objects.filter(pk__in=joined, permissions__isnull=False)
    return POWERFUL if powerful.exclude(user=target).exists() else NOTHING_SAID
