"""Action `host_config`: what a role puts on a host (packages, accounts, files, units), in one task and one look at it.

    - name: Configure Redis
      host_config:
        packages: [redis-server]
        files:
          - {path: /etc/redis/escriptorium.conf, template: redis.conf.j2, group: redis, mode: "0640", secret: true,
             notify: Restart Redis}
        units:
          - {name: redis-server.service}

Beside what the module of that name takes (library/host_config.py), an entry may have

- ``template``, a template of the role, or ``source``, a file of the role or of the control machine, which may be
  encrypted with Ansible's vault, in place of ``content``;
- ``vars``, further variables of the template;
- ``when``: an entry that is false is left out;
- ``notify``, handlers to be told when this file changes, when an earlier run has changed it and was broken off before
  they ran (``since``) or had come to their end (``pending``), or when this unit runs from something older and its
  restart is theirs (``restart: handler``).

Packages and accounts that are missing are made by Ansible's own modules, and only then are these started. In check mode
on a bare host what follows from a package, such as its user or its units, is taken for granted, and no handler is told:
there is nothing yet that it could reload.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Seconds that another program, such as unattended-upgrades, may hold the lock of apt.
LOCK_TIMEOUT = 600
#: Seconds for which the package lists count as new.
LISTS_VALID = 86400

#: Keys of an entry that stay on the control machine.
OWN_KEYS = frozenset({"template", "source", "vars", "when", "notify"})

_TEXT = {"type": "str"}
_RAW_TEXT = {"type": "raw"}  # a number or a mapping would become a text that nobody has meant
_LIST = {"type": "list", "elements": "str"}
_SWITCH = {"type": "bool"}
_OWN = {
    "template": _TEXT,
    "source": _TEXT,
    "content": _RAW_TEXT,
    "vars": {"type": "dict"},
    "when": {"type": "bool", "default": True},
    "notify": _LIST,
}
_FILE = {
    **_OWN,
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "link", "absent", "line", "without", "block", "made"]},
    **dict.fromkeys(("target", "owner", "group", "replaces", "validate"), _TEXT),
    "mode": _RAW_TEXT,
    "command": _LIST,
    "valid": _LIST,
    "since": _LIST,
    "pending": _LIST,
    "secret": _SWITCH,
    "once": _SWITCH,
    "existing": _SWITCH,
}
_UNIT = {
    **_OWN,
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["started", "stopped", "enabled", "described", "absent"]},
    "restart": {"type": "str", "choices": ["yes", "no", "handler"]},
    "restart_on": _LIST,
    "reload_on": _LIST,
    "environment": {"type": "dict"},
    "wait": _SWITCH,
    "unless": _TEXT,
}
_ACCOUNT = {
    "name": {"type": "str", "required": True},
    "uid": {"type": "int"},
    "gid": {"type": "int"},
    **dict.fromkeys(("home", "comment"), _TEXT),
    "shell": {"type": "str", "default": "/usr/sbin/nologin"},
}
_STRAY = {"pattern": {"type": "str", "required": True}, "contains": _TEXT, "wait": _SWITCH}


def _first(title: str, verb: str, names: Sequence[str]) -> list[dict[str, str]]:
    """Return the diff of what is made before files are looked at."""
    heads = {"before_header": title, "after_header": title, "before": ""}
    return [{**heads, "after": f"{verb} {' '.join(names)}\n"}] if names else []


class ActionModule(ActionBase):  # type: ignore[misc]
    """Renders, asks the host once, and says whom to notify."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make packages, files and units of a role what they are meant to be."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        lists = {"accounts": _ACCOUNT, "files": _FILE, "units": _UNIT, "strays": _STRAY}
        _, arguments = self.validate_argument_spec(
            argument_spec={
                **{name: {"type": "list", "elements": "str", "default": []} for name in ("packages", "look_for")},
                **{
                    name: {"type": "list", "elements": "dict", "default": [], "options": options}
                    for name, options in lists.items()
                },
            }
        )
        entries = {name: self._chosen(arguments[name]) for name in lists}
        sent: dict[str, Any] = {
            "packages": arguments["packages"],
            "look_for": arguments["look_for"],
            "files": [self._rendered(entry, variables) for entry in entries["files"]],
            "units": [self._rendered(entry, variables) for entry in entries["units"]],
            "accounts": entries["accounts"],
            "strays": entries["strays"],
        }
        answer = self._ask(sent, variables)
        installed: list[str] = answer.get("missing_packages") or []
        made: list[str] = answer.get("missing_accounts") or []
        if (installed or made) and not answer.get("failed"):
            done = self._install(installed, variables) if installed else {}
            for account in entries["accounts"]:
                if account["name"] in made and not done.get("failed"):
                    done = self._make_account(account, variables)
            if done.get("failed"):
                return {**result, **done}
            answer = self._ask({**sent, "go_on": True}, variables)
            answer["changed"] = True
            answer["installed"] = installed
            answer["diff"] = [
                *_first("packages", "install", installed),
                *_first("accounts", "make", made),
                *answer.get("diff", []),
            ]
        if not self._task.diff:
            answer.pop("diff", None)
        result.update(answer)
        if not ((installed or made) and self._task.check_mode):
            self._notify(entries, result)
        return result

    def _chosen(self, given: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in entry.items() if value is not None}
            for entry in given
            if entry.get("when", True)
        ]

    def _rendered(self, entry: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        sent = {key: value for key, value in entry.items() if key not in OWN_KEYS}
        if "template" in entry:
            sent["content"] = self._template(entry["template"], variables, entry.get("vars") or {})
        elif "source" in entry:
            sent["content"] = self._loader.get_text_file_contents(self._find_needle("files", entry["source"]))
        for key in ("content", "mode"):
            if not isinstance(sent.get(key, ""), str):
                raise AnsibleActionFail(f"host_config: {key} of {entry.get('path', entry.get('name'))} is no text")
        return sent

    def _template(self, name: str, variables: Mapping[str, Any], further: Mapping[str, Any]) -> str:
        """Render as Ansible's module `template` does; without copies of all variables, which its lookup makes."""
        source = self._find_needle("templates", name)
        folders = [Path(source).parent, *map(Path, variables.get("ansible_search_path", []))]
        search = [str(path) for folder in folders for path in (folder / "templates", folder)]
        known = {"ansible_managed": constants.DEFAULT_MANAGED_STR, **variables, **further}
        templar = self._templar.copy_with_new_env(searchpath=search, available_variables=known)
        text = templar.template(
            trust_as_template(self._loader.get_text_file_contents(source)),
            escape_backslashes=False,
            overrides={"trim_blocks": True},
        )
        return "" if text is None else str(text)

    def _ask(self, sent: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="host_config", module_args=dict(sent), task_vars=variables
        )
        # The arguments hold the contents of files, and those may be secrets.
        answer.pop("invocation", None)
        return answer

    def _install(self, packages: Sequence[str], variables: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="ansible.builtin.apt",
            module_args={
                "name": list(packages),
                "install_recommends": False,
                "update_cache": True,
                "cache_valid_time": LISTS_VALID,
                "lock_timeout": LOCK_TIMEOUT,
            },
            task_vars=variables,
        )
        return answer

    def _make_account(self, account: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """Make the group, then the account; in check mode only what can be asked before the group is there."""
        number = {} if account.get("gid") is None else {"group": account["name"]}
        if number:
            group = {"name": account["name"], "gid": account["gid"]}
            made: dict[str, Any] = self._execute_module(
                module_name="ansible.builtin.group", module_args=group, task_vars=variables
            )
            if made.get("failed") or self._task.check_mode:
                return made
        wanted = {key: value for key, value in account.items() if key != "gid"}
        user: dict[str, Any] = self._execute_module(
            module_name="ansible.builtin.user",
            module_args={"system": "uid" not in account, "create_home": False, **wanted, **number},
            task_vars=variables,
        )
        return user

    def _notify(self, entries: Mapping[str, Sequence[Mapping[str, Any]]], result: Mapping[str, Any]) -> None:
        """Name the handlers of what has changed: the executor reads them from the task when it has run."""
        if self._task.notify:
            raise AnsibleActionFail("host_config: name handlers at the entries, not at the task")
        changed = {*(result.get("changed_files") or ()), *(result.get("unapplied") or ())}
        concerned = [entry for entry in entries["files"] if entry["path"] in changed]
        concerned += [entry for entry in entries["units"] if entry["name"] in (result.get("handled") or ())]
        names: dict[str, None] = {}
        for entry in concerned:
            names.update(dict.fromkeys(entry.get("notify", ())))
        if names:
            self._task.notify = list(names)
