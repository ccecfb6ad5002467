"""What playbooks take with -e: the declarations, the check, and that every playbook begins with it."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jinja2 import Environment, meta, nodes

from module_utils.platform_catalogue import load_catalogue, playbook_options, read_yaml
from module_utils.platform_playbooks import GIVEN, HOSTS_OF_PLAYS, LIMIT, Run, belongs_to_hosts, check_given, run_of

if TYPE_CHECKING:
    from module_utils.platform_variables import Catalogue

RunPlaybook = Callable[..., "subprocess.CompletedProcess[str]"]

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = [ROOT / "site.yml", *sorted((ROOT / "playbooks").glob("*.yml"))]
BEGINNING = {"begin.yml", "playbooks/begin.yml"}
LIMIT_S = 5.0
INVENTORY = """
all:
  vars: {site_domain: htr.example.org, site_private_network: 10.10.0.0/16, site_admin_email: htr@example.org}
  children:
    frontend: {hosts: {front: {private_address: 10.10.0.1}}}
    storage: {hosts: {front: {}}}
    compute: {hosts: {node1: {private_address: 10.10.0.3}}}
"""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(ROOT)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.yml"
    path.write_text(INVENTORY)
    return path


def run(*playbooks: str) -> Run:
    return run_of(playbooks or None, ROOT)


def texts(catalogue: Catalogue, playbook: str, **given: Any) -> list[str]:
    return [problem.text() for problem in check_given(given, run(playbook), catalogue)]


# --- the check --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("playbook", "name", "mend"),
    [
        ("restore", "restore_target_tmie", "did you mean 'restore_target_time'?"),
        ("drain-compute", "drain_tiemout", "did you mean 'drain_timeout'?"),
        ("show-status", "site_domian", "did you mean 'site_domain'?"),
        ("restore", "drain_timeout", "take it out: it is a variable of drain-compute.yml"),
        ("preflight", "pause_jobs", "take it out: it is a variable of roll-back.yml, upgrade.yml"),
        ("back-up", "frobnicate", "take it out (this playbook takes back_up_type), or let its name start with x_"),
    ],
)
def test_an_unknown_name_is_refused(catalogue: Catalogue, playbook: str, name: str, mend: str) -> None:
    (text,) = texts(catalogue, playbook, **{name: "value"})
    assert f"-e: {name}: found an unknown variable, wanted a variable of this run\n  -> {mend}" in text


def test_a_value_that_a_blank_has_ended_is_refused(inventory: Path, run_playbook: RunPlaybook) -> None:
    """Ansible ignores what comes after the blank: a moment would be another one, a reason cut short."""
    given = ("-e", "host=node1 drain_reason=a new fan", "-e", "preflight_secrets=generated")
    result = run_playbook(inventory, "drain-compute.yml", *given)
    assert result.returncode == 2
    assert "-e: 'new fan': found text without a name, wanted name=value\n" in result.stdout


def test_a_derived_name_is_refused(catalogue: Catalogue) -> None:
    (text,) = texts(catalogue, "site", topology_pool="other")
    assert "wanted none: it is derived in group_vars/all/storage.yml\n  -> set zfs_pool instead" in text


@pytest.mark.parametrize(
    ("playbook", "given", "wanted"),
    [
        ("drain-compute", {"drain_timeout": "soon"}, "wanted a whole number"),
        ("drain-compute", {"drain_then": "stpo"}, "one of wait, requeue, stop\n  -> did you mean 'stop'?"),
        ("restore", {"restore_media": "perhaps"}, "wanted true or false"),
        ("restore", {"restore_timeout": "-5"}, "wanted 0 or more"),
        ("reclaim-space", {"reclaim_items": '["a"]'}, 'write it as JSON: -e \'{"reclaim_items": ["..."]}\''),
    ],
)
def test_a_wrong_value_is_refused(catalogue: Catalogue, playbook: str, given: Mapping[str, Any], wanted: str) -> None:
    (text,) = texts(catalogue, playbook, **given)
    assert wanted in text


@pytest.mark.parametrize(
    ("playbook", "given"),
    [
        ("drain-compute", {"host": "node1,node2", "drain_timeout": "-1", "drain_then": "requeue"}),
        ("recover", {"recover_document": "12:<draft> change me", "recover_time": "2026-11-21 09:30:00+01"}),
        ("reclaim-space", {"reclaim_items": ["a"], "reclaim_export_only": "yes"}),
        ("restore", {"restore_timeline": 2, "restore_timeout": "{{ x_time }}"}),
        ("show-status", {"site_domain": 3, "x_mine": 1, "ansible_user": "me", "postgresql_port": "x"}),
    ],
)
def test_what_is_right_goes_on(catalogue: Catalogue, playbook: str, given: Mapping[str, Any]) -> None:
    assert texts(catalogue, playbook, **given) == []


@pytest.mark.parametrize("playbook", ["clean-compute", "drain-compute", "remove-compute", "resume-compute"])
def test_hosts_of_a_run_are_written_out(catalogue: Catalogue, playbook: str) -> None:
    """Before: the check looked at what the template gives with the variables of a host, and plays have none."""
    (text,) = texts(catalogue, playbook, host="{{ x_host }}")
    assert "-e: host: found '{{ x_host }}', wanted a value without a template" in text


def test_a_limit_is_given_as_one(catalogue: Catalogue) -> None:
    (text,) = texts(catalogue, "site", ansible_limit="node1")
    assert "-e: ansible_limit: found 'node1', wanted nothing: Ansible sets it\n  -> give the hosts with --limit" in text


def test_a_variable_of_a_run_is_none_of_an_inventory(inventory: Path, run_playbook: RunPlaybook) -> None:
    inventory.write_text(INVENTORY.replace("vars: {", "vars: {pause_timeout: 60, "))
    result = run_playbook(inventory, "preflight.yml", "-e", "preflight_secrets=generated")
    assert result.returncode == 2
    assert "-> take it out, and give it with -e to roll-back.yml or upgrade.yml\n" in result.stdout


def test_values_of_the_inventory_are_left_to_its_rules(catalogue: Catalogue) -> None:
    ours = run("drain-compute")
    assert belongs_to_hosts("postgresql_port", ours, catalogue)
    assert not any(belongs_to_hosts(name, ours, catalogue) for name in ("drain_then", "topology_pool", "frobnicate"))


def test_a_run_of_several_playbooks_takes_what_each_does(catalogue: Catalogue) -> None:
    assert check_given({"drain_then": "wait", "back_up_type": "full"}, run("drain-compute", "back-up"), catalogue) == []
    assert check_given({"drain_then": "wait", "back_up_type": "full"}, run(), catalogue) == []
    assert check_given({"drain_then": "wait"}, run("back-up"), catalogue)[0].host == GIVEN


# --- every playbook ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_every_playbook_begins_alike(path: Path) -> None:
    first = yaml.safe_load(path.read_text())[0]
    assert path.name == "begin.yml" or first["ansible.builtin.import_playbook"] in BEGINNING


def processor_time() -> float:
    """Return the seconds of processor time that programs which have ended have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_every_playbook_refuses_what_is_misspelt(
    path: Path, inventory: Path, run_playbook: RunPlaybook, start_playbook: RunPlaybook, tmp_path: Path
) -> None:
    (tmp_path / "more.yml").write_text("hsot: node1\n")
    # The longest one with the start of Ansible in its time: that of the processor, since other tests may run beside it.
    run = start_playbook if path.name == "site.yml" else run_playbook
    before = processor_time()
    result = run(inventory, str(path), "-e", "preflight_secrets=generated", "-e", f"@{tmp_path}/more.yml")
    assert processor_time() - before < LIMIT_S
    assert result.returncode == 2, result.stdout
    assert "-e: hsot: found an unknown variable" in result.stdout
    assert result.stdout.count("TASK [") == 1
    assert not (tmp_path / "contacted").exists()


def test_a_run_is_checked_once(inventory: Path, run_playbook: RunPlaybook) -> None:
    """Also where playbooks import others, and where there are several; a limit is asked for by each that has needs."""
    wanted = ("-e", "preflight_secrets=generated")
    plan = run_playbook(inventory, "plan.yml", str(ROOT / "playbooks/preflight.yml"), *wanted)
    assert plan.stdout.count("TASK [Check groups, hosts, variables and limit]") == 1
    limited = run_playbook(inventory, "plan.yml", str(ROOT / "playbooks/back-up.yml"), "--limit", "node1", *wanted)
    assert "--limit leaves out front. Repeat it without --limit." in " ".join(limited.stdout.split())
    assert limited.returncode == 2


def test_tags_do_not_switch_the_check_off(inventory: Path, run_playbook: RunPlaybook) -> None:
    assert run_playbook(inventory, "show-status.yml", "--tags", "none", "-e", "hsot=1").returncode == 2


# --- the declarations -------------------------------------------------------------------------------------------------


def test_heads_and_guide_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/playbook-variables", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_declarations_are_sound(catalogue: Catalogue) -> None:
    for playbook, options in playbook_options(ROOT).items():
        assert playbook in {path.stem for path in PLAYBOOKS}
        for name, option in options.items():
            assert option.meaning, name
            assert name not in {*catalogue.variables, *catalogue.derived}, name
            assert option.default is None or not option.choices or option.default in option.choices, name


EXPRESSION_KEYS = {"when", "that", "until", "changed_when", "failed_when"}
SETTING_KEYS = {"register", "loop_var"}
#: What Ansible and loops set.
MAGIC = re.compile(
    r"ansible_\w+|item|omit|groups|hostvars|inventory_hostname|playbook_dir|lookup|query|now|role_path|undef|dict|range"
)


def strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) of every text in a file; items of a list have the key of the list."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from strings(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from strings(value, key)
    elif isinstance(node, str):
        yield key, node


def anything(value: object) -> object:
    """Stands for Ansible's filters and tests, which Jinja does not know."""
    return value


def read_names(node: Any) -> set[str]:
    found: set[str] = set()
    for key, written in strings(node):
        environment, text = Environment(autoescape=True), written.replace("\\", "\\\\")
        tree = environment.parse(f"{{{{ {text} }}}}" if key in EXPRESSION_KEYS and "{{" not in text else text)
        environment.filters.update((part.name, anything) for part in tree.find_all(nodes.Filter))
        environment.tests.update((part.name, anything) for part in tree.find_all(nodes.Test))
        found |= meta.find_undeclared_variables(tree)
    return found


def set_names(node: Any) -> set[str]:
    found: set[str] = set()
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name in SETTING_KEYS:
                found.add(value)
            if name in {"vars", "ansible.builtin.set_fact"}:
                found |= set(value)
            found |= set_names(value)
    elif isinstance(node, list):
        for value in node:
            found |= set_names(value)
    return found


def test_plays_choose_their_hosts_by_what_has_one_meaning() -> None:
    """By groups, by what the check refuses as a template, and by the lookup absent_hosts, which refuses it as well."""
    plays = [play for path in PLAYBOOKS for play in read_yaml(path) if "hosts" in play]
    read = set().union(*(read_names({"hosts": play["hosts"]}) for play in plays))
    lookups = {name for play in plays for name in re.findall(r"lookup\('(\w+)'", str(play["hosts"]))}
    # Said by the playbooks themselves, or registered by their beginning.
    own = {"begin_needs", "hostvars", "groups", "lookup"}
    assert read == {*own, *HOSTS_OF_PLAYS, LIMIT}
    assert lookups == {"absent_hosts"}


def test_playbooks_read_what_is_declared_and_nothing_else(catalogue: Catalogue) -> None:
    files = [*PLAYBOOKS, *sorted((ROOT / "playbooks/tasks").glob("*.yml"))]
    contents = [read_yaml(path) for path in files]
    declared = {name for options in playbook_options(ROOT).values() for name in options}
    read: set[str] = set().union(*map(read_names, contents))
    known = set().union(*map(set_names, contents)) | set(catalogue.variables) | set(catalogue.derived)
    roles = "".join(path.read_text() for path in (ROOT / "roles").glob("*/tasks/*.yml"))
    from_roles = {name for name in read if re.search(rf"^ +(register: )?{name}(:|$)", roles, re.MULTILINE)}
    unknown = {name for name in read - known - declared - from_roles if not MAGIC.fullmatch(name)}
    assert unknown == set(), json.dumps(sorted(unknown))
    assert declared - read == set()


def test_defaults_in_playbooks_are_those_that_are_declared() -> None:
    declared: dict[str, list[Any]] = {}
    for options in playbook_options(ROOT).values():
        for name, option in options.items():
            if option.has_default:
                declared.setdefault(name, []).append(option.default)
    pattern = re.compile(rf"\b({'|'.join(declared)}) \| default\(((?:'[^']*'|[^,()])*)")
    files = [*PLAYBOOKS, *sorted((ROOT / "playbooks/tasks").glob("*.yml"))]
    found = {match.groups() for path in files for match in pattern.finditer(path.read_text())}
    assert len(found) > len(declared) / 2
    assert [(name, default) for name, default in sorted(found) if yaml.safe_load(default) not in declared[name]] == []
