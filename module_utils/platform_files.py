"""Files of variables beside an inventory: which ones Ansible reads, which ones it passes over, where secrets belong.

Ansible reads, for each group and host, the first of ``<name>``, ``<name>.yml``, ``<name>.yaml`` and ``<name>.json`` in
group_vars and host_vars beside each inventory that ``-i`` names, and beside the playbook. All else it passes over in
silence. No Ansible import.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .platform_problems import THE_INVENTORY, Problem, did_you_mean
from .platform_secrets import CERTIFICATES, RELATIVE_PATH, VAULT_HEADER
from .platform_variables import PLATFORM_GROUPS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

#: In the order in which Ansible looks; the first one that is there wins.
SUFFIXES: Final = ("", ".yml", ".yaml", ".json")
GROUP_FOLDER: Final = "group_vars"
HOST_FOLDER: Final = "host_vars"
#: What group_vars/all of the repository holds; a test keeps it complete.
OWN_FILES: Final = frozenset(
    f"{name}.yml" for name in ("application", "backup", "base", "database", "firewall", "gpu", "storage", "topology")
)
OWN_PLACE: Final = "the folder of your site, e.g. inventories/mysite"
#: Stands for what a file of the site says, in a dry run before there is one.
IN_A_DRY_RUN: Final = "a run without --check makes it"


class MissingFileError(Exception):
    """A file of the site is not there; the message says what makes it."""


def inventory_folders(sources: Iterable[str]) -> list[Path]:
    """Folders whose group_vars and host_vars Ansible reads, of what ``-i`` names; a list of hosts has none."""
    found: dict[Path, None] = {}
    for source in sources:
        if "," in source and not Path(source).exists():
            continue
        path = Path(source)
        found[path if path.is_dir() else path.parent] = None
    return list(found)


def check_files(
    sources: Sequence[str], groups: Collection[str], hosts: Collection[str], repository: Path
) -> list[Problem]:
    """All problems with the files of variables of an inventory and of the repository."""
    folders = inventory_folders(sources)
    shown = _Shown(repository)
    problems = list(_beside_the_playbooks(repository, shown))
    for folder in folders:
        if _same(folder, repository) or _same(folder, repository / "playbooks"):
            problems.append(
                _problem(
                    shown(folder), "an inventory among the repository's own files", OWN_PLACE, f"move it to {OWN_PLACE}"
                )
            )
            continue
        problems += _of_entities(folder / GROUP_FOLDER, {*groups, *PLATFORM_GROUPS}, "group", shown)
        problems += _of_entities(folder / HOST_FOLDER, {*hosts, "localhost"}, "host", shown)
    problems += _elsewhere(sources, folders, repository, shown)
    return problems


def secrets_folder(sources: Iterable[str], near: str | None = None) -> Path | None:
    """Folder whose group_vars get new secrets, so that every host reads them; None where ``-i`` lists hosts only.

    ``near`` is the folder of a host's inventory: where ``-i`` names several, it is taken if it is one of them.
    """
    folders = inventory_folders(sources)
    first = folders[0] if folders else None
    return next((one for one in folders if near and _same(one, Path(near))), first)


def site_file(name: str, variables: Mapping[str, Any], loader: Any, *, needed: bool = True) -> str | None:
    """Return what a file beside the site's certificates says, decrypted; ``variables`` are those that a plugin gets.

    Empty where it is missing and not needed; None in a dry run of a site that has none yet.

    Raises:
        MissingFileError: it is needed, and not there.

    """
    folder = secrets_folder(variables.get("ansible_inventory_sources") or (), variables.get("inventory_dir"))
    path = folder / CERTIFICATES / name if folder else None
    if path and path.exists():
        return str(loader.get_text_file_contents(str(path)))
    if not needed:
        return ""
    if variables.get("ansible_check_mode"):
        return None
    made = "ansible-playbook playbooks/generate-secrets.yml makes it, as site.yml does"
    raise MissingFileError(f"{path or name} is not there: {made}")


def check_secrets_place(folder: Path, repository: Path) -> list[Problem]:
    """Return the problem that new secrets beside the inventory in ``folder`` would hide a file of its variables."""
    wanted = folder / RELATIVE_PATH.parent
    hidden = [path for suffix in SUFFIXES if (path := wanted.with_name(f"all{suffix}")).exists() and not path.is_dir()]
    shown = _Shown(repository)
    return [
        _problem(
            shown(path),
            "a file that the secrets in group_vars/all/ would hide",
            "group_vars/all/site.yml: Ansible reads the file or the folder, never both",
            f"cd {shown(path.parent)} && mv {path.name} site.tmp && mkdir -p all && mv site.tmp all/site.yml",
        )
        for path in hidden
    ]


class _Shown:
    """Paths as messages show them: from the repository where they lie in it, else in full."""

    def __init__(self, repository: Path) -> None:
        self._root = repository

    def __call__(self, path: Path) -> str:
        return str(path.relative_to(self._root)) if path.is_relative_to(self._root) else str(path)


def _problem(path: str, found: str, wanted: str, mend: str) -> Problem:
    return Problem(THE_INVENTORY, path, found, wanted, mend)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, without what people and Ansible pass over alike; nothing without a folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.name.endswith("~"))


def _stem(path: Path) -> str:
    """Name of the group or host that a file or folder is for."""
    suffix = next((end for end in SUFFIXES[1:] if path.name.endswith(end)), "")
    return path.name.removesuffix(suffix)


def _of_entities(folder: Path, names: Collection[str], kind: str, shown: _Shown) -> Iterator[Problem]:
    """Yield what is wrong in a folder group_vars or host_vars beside an inventory."""
    entries = dict.fromkeys(_entries(folder))
    for name in sorted(names) if entries else ():
        there = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
        there = [path for path in there if path in entries]
        if there and there[0].is_dir():
            yield from _below(there[0], shown)
        for hidden in there[1:]:
            mend = f"move what {hidden.name} says into {there[0].name}" + ("/" if there[0].is_dir() else "")
            yield _problem(
                shown(hidden),
                f"a file that {there[0].name} beside it hides",
                f"one of the two: Ansible reads {there[0].name} only",
                mend,
            )
    for path in entries:
        if _stem(path) in names or path.name in names:
            continue
        near = did_you_mean(_stem(path), names, 0.6)
        mistyped = _mistyped(path)
        if path.is_dir() or path.suffix in SUFFIXES or near or mistyped:
            other = f"rename it, or take it out: there is no {kind} {_stem(path)!r}"
            yield _problem(shown(path), "a file that no host reads", f"the name of a {kind}", mistyped or near or other)


def _below(folder: Path, shown: _Shown) -> Iterator[Problem]:
    """Yield files of variables below a group's or host's folder that Ansible passes over for the end of their name."""
    for path in _entries(folder):
        if path.parts[-len(CERTIFICATES.parts) :] == CERTIFICATES.parts:
            continue  # keys and certificates, which are no variables
        if path.is_dir():
            if path.suffix:
                yield _problem(
                    shown(path), "a folder that no host reads", "a folder without a dot", f"rename it to {path.stem}"
                )
            else:
                yield from _below(path, shown)
        elif path.suffix not in SUFFIXES and _mistyped(path):
            yield _problem(shown(path), "a file that no host reads", "a file .yml, .yaml or .json", _mistyped(path))


def _mistyped(path: Path) -> str:
    """How to rename a file that was meant for Ansible: its end is nearly right, or ansible-vault has encrypted it."""
    if path.suffix in SUFFIXES or not path.is_file():
        return ""
    near = difflib.get_close_matches(path.suffix.lower(), SUFFIXES[1:], n=1, cutoff=0.75)
    try:
        with path.open("rb") as stream:
            encrypted = stream.read(len(VAULT_HEADER)) == VAULT_HEADER.encode()
    except OSError:
        encrypted = False
    suffix = near[0] if near else ".yml" if encrypted else ""
    return f"did you mean {path.stem + suffix!r}?" if suffix else ""


def _beside_the_playbooks(repository: Path, shown: _Shown) -> Iterator[Problem]:
    """Yield the operator's files among the repository's own: there they win over the inventory's, and unchecked."""
    foreign = [path for path in _entries(repository / GROUP_FOLDER) if path.name != "all"]
    foreign += [path for path in _entries(repository / GROUP_FOLDER / "all") if path.name not in OWN_FILES]
    hosts = [folder / HOST_FOLDER for folder in (repository, repository / "playbooks")]
    for path in (*foreign, *(folder for folder in hosts if folder.is_dir())):
        yield _problem(
            shown(path),
            "variables beside the playbooks, which win over those of every site",
            "the repository's own files only",
            f"move it to {OWN_PLACE}/{path.relative_to(repository).as_posix().removeprefix('playbooks/')}",
        )


def _elsewhere(sources: Sequence[str], folders: Sequence[Path], repository: Path, shown: _Shown) -> Iterator[Problem]:
    """Yield folders of variables near the inventory that Ansible passes over: it looks beside what -i names only."""
    for source, folder in ((Path(name), folder) for name in sources for folder in inventory_folders([name])):
        near = [folder.parent] if not _same(folder.parent, repository) else []
        near += [below for below in sorted(folder.iterdir()) if below.is_dir()] if source.is_dir() else []
        for place in near:
            if any(_same(place, one) for one in folders) or place.name in (GROUP_FOLDER, HOST_FOLDER):
                continue
            for name in (GROUP_FOLDER, HOST_FOLDER):
                if _entries(place / name) and not _same(place / name, repository / name):
                    yield _problem(
                        shown(place / name),
                        "variables that no host reads",
                        f"{name} beside what -i names, in {shown(folder)}",
                        f"move them to {shown(folder / name)}, or give -i {shown(place)}",
                    )
