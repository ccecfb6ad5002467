"""What unit tests share: the root of the repository, and imports of its pure logic without an installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible.module_utils
import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader
from ansible.template import Templar, trust_as_template
from hypothesis import settings

# How long an example takes says nothing on a busy machine.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")

ROOT = Path(__file__).resolve().parents[2]

# `from module_utils.platform_x import ...` as tests and type checkers read it, and
# `from ansible.module_utils.platform_x import ...` as plugins do.
sys.path.insert(0, str(ROOT))
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))

from tests.unit.warm_ansible import WarmAnsible, plain  # noqa: E402 - from the root, as above

RunPlaybook = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def ansible_plugins() -> None:
    """Have Ansible find its own plugins, and the filters of this repository. Ansible minds a second time."""
    init_plugin_loader()
    filter_loader.add_directory(str(ROOT / "filter_plugins"))


@pytest.fixture
def resolve(root: Path) -> Callable[..., Any]:
    """Resolve a template as a role would: ``resolve(role, text, variable=...)``, the rest as the role has it."""

    def resolved(role: str, text: str, escape_backslashes: bool = True, **variables: Any) -> Any:
        loader = DataLoader()
        known: dict[str, Any] = {"ansible_managed": "", "ansible_facts": {"memtotal_mb": 65536}}
        for file in (root / "roles" / role / part / "main.yml" for part in ("defaults", "vars")):
            known |= loader.load_from_file(str(file), trusted_as_template=True) if file.is_file() else {}
        templar = Templar(loader=loader, variables=known | variables)
        return templar.template(trust_as_template(text), escape_backslashes=escape_backslashes)

    return resolved


@pytest.fixture
def render(root: Path, resolve: Callable[..., Any]) -> Callable[..., str]:
    """Render a file of a role's templates: ``render(role, template, variable=...)``."""

    def rendered(role: str, template: str, **variables: Any) -> str:
        text = (root / "roles" / role / "templates" / template).read_text()
        return str(resolve(role, text, escape_backslashes=False, **variables))

    return rendered


@pytest.fixture(scope="session")
def ansible_playbook() -> str:
    """Path of ansible-playbook: beside the Python that runs the tests, or else on the PATH."""
    beside = Path(sys.executable).parent / "ansible-playbook"
    found = str(beside) if beside.is_file() else shutil.which("ansible-playbook")
    assert found, "ansible-playbook is neither beside this Python nor on the PATH"
    return found


@pytest.fixture(scope="session")
def warm_ansible(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmAnsible]:
    """ansible-playbook without its start: see warm_ansible.py."""
    warm = WarmAnsible(tmp_path_factory.mktemp("ansible"), ROOT / "ansible.cfg")
    yield warm
    warm.end()


@pytest.fixture
def operator(tmp_path: Path) -> dict[str, str]:
    """Environment of an operator; every attempt to contact a host is recorded in ``tmp_path``/contacted and fails."""
    tripwire = tmp_path / "ssh"
    tripwire.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/contacted\nexit 255\n')
    tripwire.chmod(0o755)
    return plain(os.environ) | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_SSH_EXECUTABLE": str(tripwire),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
    }


@pytest.fixture
def run_playbook(warm_ansible: WarmAnsible, operator: dict[str, str]) -> RunPlaybook:
    """Run a playbook of the repository as an operator does: ``run_playbook(inventory, playbook, *arguments)``."""

    def run(inventory: Path, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return warm_ansible.run(["-i", str(inventory), str(ROOT / "playbooks" / playbook), *arguments], ROOT, operator)

    return run


@pytest.fixture
def start_playbook(ansible_playbook: str, operator: dict[str, str]) -> RunPlaybook:
    """Run a playbook likewise, with Ansible started anew: where its time counts, or that it starts at all."""

    def run(inventory: Path, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ansible_playbook, "-i", str(inventory), str(ROOT / "playbooks" / playbook), *arguments],
            cwd=ROOT,
            env=operator,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """Folder that every account may enter, for tests in which root acts as another one; those of pytest are its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another account")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
