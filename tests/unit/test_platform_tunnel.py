"""The tunnel in which NFS crosses the private network: addresses that stay, keys that belong together, and refusals."""

from __future__ import annotations

import base64
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from module_utils import platform_tunnel as tunnel
from module_utils import platform_tunnel_keys as keys
from module_utils.platform_inventory import check_inventory
from module_utils.platform_secrets import CERTIFICATES
from module_utils.platform_topology import Topology
from tests.unit.sound_inventory import CATALOGUE, inventory

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

SITE = Topology(frontend=("front",), storage=("store",), replicas=("copy",), compute=("n1", "n2"), absent=("gone",))
PRIVATE = {
    "front": "10.10.0.10", "store": "10.10.0.11", "copy": "10.10.0.12", "n1": "10.10.0.21", "n2": "10.10.0.22",
}  # fmt: skip
NETWORK = "10.10.0.0/24"


# ---- addresses -------------------------------------------------------------------------------------------------------


def test_a_host_has_the_place_that_it_has_in_the_private_network() -> None:
    found = tunnel.addresses(SITE, PRIVATE, NETWORK, tunnel.DEFAULT_NETWORK)
    assert found == {"store": "198.18.0.11", "front": "198.18.0.10", "n1": "198.18.0.21", "n2": "198.18.0.22"}
    # Who joins or leaves gives nobody another one.
    less = Topology(frontend=("front",), storage=("store",), compute=("n2",))
    assert tunnel.addresses(less, PRIVATE, NETWORK, tunnel.DEFAULT_NETWORK).items() <= found.items()


def test_one_machine_has_no_tunnel() -> None:
    assert tunnel.members(Topology(frontend=("one",), storage=("one",), compute=("one",))) == ()
    assert tunnel.members(Topology(frontend=("one",), storage=("one",), compute=("one", "n1"))) == ("one", "n1")


@pytest.mark.parametrize(
    ("private", "network", "inside", "expected"),
    [
        ("10.10.7.21", "10.10.4.0/22", "198.18.0.0/16", "198.18.3.21"),
        ("192.168.1.5", "192.168.0.0/16", "10.254.0.0/22", "10.254.1.5"),
        ("192.168.9.5", "192.168.0.0/16", "10.254.0.0/22", None),
        ("10.0.0.255", "10.0.0.0/16", "10.254.0.0/24", None),
    ],
)
def test_places_of_networks_of_other_sizes(private: str, network: str, inside: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=f"{inside} has no place for {private} of {network}"):
            tunnel.address(private, network, inside)
    else:
        assert tunnel.address(private, network, inside) == expected


def test_clients_speak_with_the_storage_host_alone_and_begin() -> None:
    inside = tunnel.addresses(SITE, PRIVATE, NETWORK, tunnel.DEFAULT_NETWORK)

    def peers(host: str) -> list[dict[str, Any]]:
        return tunnel.peers(SITE, host, inside, "10.10.0.11:51820", lambda name: f"key of {name}")

    assert peers("n1") == [
        {"name": "store", "public_key": "key of store", "address": "198.18.0.11", "endpoint": "10.10.0.11:51820",
         "keepalive": 25}
    ]  # fmt: skip
    assert [(peer["name"], peer["address"]) for peer in peers("store")] == [
        ("front", "198.18.0.10"), ("n1", "198.18.0.21"), ("n2", "198.18.0.22")
    ]  # fmt: skip
    assert not any("endpoint" in peer for peer in peers("store"))
    assert peers("copy") == peers("gone") == []


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_the_site_s_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    assert keys.make(folder, write=False)
    assert not folder.exists()
    assert keys.make(folder, write=True)
    path = folder / keys.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_text()
    assert len(base64.b64decode(before)) == 32
    assert not keys.make(folder, write=True)
    assert path.read_text() == before


def test_two_hosts_agree_on_a_secret_and_no_two_have_one_key(tmp_path: Path) -> None:
    keys.make(tmp_path, write=True)
    content = (tmp_path / keys.FILE).read_text()
    private = {host: keys.private_key(content, host) for host in PRIVATE}
    public = {host: keys.public_key(content, host) for host in PRIVATE}
    assert len({*private.values(), *public.values()}) == 2 * len(PRIVATE)
    assert private == {host: keys.private_key(content, host) for host in PRIVATE}, "the same in each run"

    def shared(own: str, other: str) -> bytes:
        mine = X25519PrivateKey.from_private_bytes(base64.b64decode(private[own]))
        return mine.exchange(X25519PublicKey.from_public_bytes(base64.b64decode(public[other])))

    assert shared("n1", "store") == shared("store", "n1") != shared("n2", "store")


def test_keys_of_another_site_are_others(tmp_path: Path) -> None:
    for site in ("one", "other"):
        keys.make(tmp_path / site, write=True)
    one, other = ((tmp_path / site / keys.FILE).read_text() for site in ("one", "other"))
    assert keys.public_key(one, "n1") != keys.public_key(other, "n1")


def test_a_derived_key_stays_what_it_is() -> None:
    """A change of the derivation would cut off each host that a run does not reach."""
    content = base64.b64encode(bytes(range(32))).decode()
    assert keys.private_key(content, "node1") == "aMhPJMMLPWk8/OQov4D7S35VGqGvXDejqz5GFCuKrh8="
    assert keys.public_key(content, "node1") == "tXVCZ5UdCpqHkRfthho/65E17upSbRu1ON1BSMPjYTU="


@pytest.mark.parametrize("content", ["", "no base64!", base64.b64encode(b"short").decode()])
def test_another_file_is_refused_and_not_shown(content: str) -> None:
    with pytest.raises(keys.TunnelKeyError, match=r"wireguard\.key is not as this repository makes it") as refused:
        keys.private_key(content, "n1")
    assert not content or content not in str(refused.value)


# ---- what the inventory may say --------------------------------------------------------------------------------------


def problems(**common: Any) -> list[tuple[str, str]]:
    found = check_inventory(inventory(common), CATALOGUE, secrets_required=False)
    return [(problem.variable, problem.found) for problem in found if problem.variable.startswith("storage_encryption")]


def test_an_encrypted_tree_is_accepted() -> None:
    assert problems(storage_encryption="wireguard") == problems(storage_encryption="none") == []


def test_encryption_that_is_not_built_is_refused() -> None:
    assert problems(storage_encryption="mtls") == [("storage_encryption", "'mtls'")]


def test_a_tree_that_the_site_mounts_is_not_encrypted_here() -> None:
    assert problems(storage_encryption="wireguard", storage_transport="preset") == [
        ("storage_encryption", "'wireguard'")
    ]
    assert problems(storage_encryption="none", storage_transport="preset") == []


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("10.10.0.0/16", "'10.10.0.0/16', which overlaps with site_private_network (10.10.0.0/24)"),
        ("10.254.0.1/16", "'10.254.0.1/16'"),
        ("fd00::/64", "'fd00::/64'"),
        ("somewhere", "'somewhere'"),
    ],
)
def test_a_network_that_is_none_or_not_its_own_is_refused(network: str, expected: str) -> None:
    found = problems(storage_encryption="wireguard", storage_encryption_network=network)
    assert ("storage_encryption_network", expected) in found
    assert problems(storage_encryption_network=network) == [], "nothing is said where it is not used"


def test_the_address_by_which_ansible_comes_is_not_in_the_tunnel() -> None:
    found = problems(storage_encryption="wireguard", ansible_host="198.18.3.4")
    assert found == [("storage_encryption_network", "'198.18.0.0/16', which overlaps with ansible_host (198.18.3.4)")]


def test_each_host_needs_a_place() -> None:
    values = {"storage_encryption": "wireguard", "storage_encryption_network": "10.254.0.0/28"}
    found = check_inventory(inventory(values), CATALOGUE, secrets_required=False)
    lacking = {problem.found for problem in found}
    assert lacking == set()  # .10 to .13 of 16
    found = check_inventory(
        inventory({**values, "storage_encryption_network": "10.254.0.0/29"}),
        CATALOGUE,
        secrets_required=False,
    )
    assert len(found) == 4
    assert {problem.mend for problem in found} == {"name a network /24 that nothing else has"}


# ---- what plays get --------------------------------------------------------------------------------------------------

PROBE = """---
- name: Look at what is derived
  hosts: all
  gather_facts: false
  vars: {ansible_connection: local}
  tasks:
    - name: Write it down
      ansible.builtin.copy:
        content: "{{ {'key': wireguard_private_key, 'peers': wireguard_peers} | to_json }}"
        dest: "FOLDER/{{ inventory_hostname }}.json"
        mode: "0600"
      check_mode: false
"""
HOSTS = """---
all:
  vars:
    site_domain: a.example
    site_private_network: 10.10.0.0/24
    site_admin_email: a@b.example
    storage_encryption: wireguard
  children:
    frontend: {hosts: {front: {private_address: 10.10.0.10}}}
    storage: {hosts: {store: {private_address: 10.10.0.11}}}
    compute: {hosts: {n1: {private_address: 10.10.0.21}}}
"""


class Plays:
    """A site on this computer, whose derived values are written down."""

    def __init__(self, folder: Path, root: Path, run_playbook: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        self.folder, self.run_playbook = folder, run_playbook
        (folder / "site").mkdir()
        (folder / "site/hosts.yml").write_text(HOSTS)
        (folder / "plays").mkdir()
        (folder / "plays/group_vars").symlink_to(root / "group_vars")
        (folder / "plays/probe.yml").write_text(PROBE.replace("FOLDER", str(folder)))
        self.file = folder / "site" / CERTIFICATES / keys.FILE

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run_playbook(self.folder / "site", str(self.folder / "plays/probe.yml"), *words)

    def values(self) -> dict[str, dict[str, Any]]:
        return {path.stem: json.loads(path.read_text()) for path in self.folder.glob("*.json")}


@pytest.fixture
def plays(tmp_path: Path, root: Path, run_playbook: Callable[..., subprocess.CompletedProcess[str]]) -> Plays:
    return Plays(tmp_path, root, run_playbook)


def test_plays_get_keys_that_belong_together_also_from_an_encrypted_file(plays: Plays) -> None:
    keys.make(plays.file.parent, write=True)
    content = plays.file.read_text()
    plays.file.write_bytes(VaultLib([("default", VaultSecret(b"unlock"))]).encrypt(content))
    password = plays.folder / "password"
    password.write_text("unlock\n")
    result = plays.run("--vault-password-file", str(password))
    assert result.returncode == 0, result.stdout
    found = plays.values()
    assert {host: one["key"] for host, one in found.items()} == {
        host: keys.private_key(content, host) for host in ("front", "store", "n1")
    }
    assert found["n1"]["peers"][0]["public_key"] == keys.public_key(content, "store")
    assert found["n1"]["peers"][0]["endpoint"] == "10.10.0.11:51820"
    assert [peer["public_key"] for peer in found["store"]["peers"]] == [
        keys.public_key(content, host) for host in ("front", "n1")
    ]


def test_a_site_without_its_file_is_told_what_makes_it(plays: Plays) -> None:
    result = plays.run()
    assert result.returncode == 2
    assert "wireguard.key is not there: ansible-playbook playbooks/generate-secrets.yml makes it" in " ".join(
        result.stdout.split()
    )


def test_a_dry_run_goes_on_without_it(plays: Plays) -> None:
    assert plays.run("--check").returncode == 0
    assert plays.values()["n1"]["key"] == "a run without --check makes it"


def test_a_run_makes_the_file_where_a_tunnel_is_wanted(
    tmp_path: Path, run_playbook: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "hosts.yml").write_text(HOSTS)
    file = site / CERTIFICATES / keys.FILE
    dry = run_playbook(site, "generate-secrets.yml", "--check", "-v")
    assert "Would make wireguard.key in" in dry.stdout
    assert not file.exists()
    first = run_playbook(site, "generate-secrets.yml", "-vvv")
    assert first.returncode == 0, first.stdout
    before = file.read_text()
    assert before.strip() not in first.stdout + first.stderr
    again = run_playbook(site, "generate-secrets.yml")
    assert again.stdout.count("changed=0") == 3, again.stdout
    assert file.read_text() == before
    # A site whose connections to the database are in clear has no certificates.
    (site / "hosts.yml").write_text(HOSTS.replace("    storage_enc", "    internal_tls: false\n    storage_enc"))
    shutil.rmtree(file.parent)
    assert run_playbook(site, "generate-secrets.yml").returncode == 0
    assert [path.name for path in file.parent.iterdir()] == [keys.FILE]


# ---- what the role writes --------------------------------------------------------------------------------------------


def test_the_role_s_files_are_what_wg_reads(render: Callable[..., str]) -> None:
    inside = tunnel.addresses(SITE, PRIVATE, NETWORK, tunnel.DEFAULT_NETWORK)
    peers = tunnel.peers(SITE, "n1", inside, "10.10.0.11:51820", lambda name: f"{name}=")
    client = render("wireguard", "wg-tree.conf.j2", wireguard_private_key="own=", wireguard_peers=peers)
    assert client.partition("[Interface]")[2].splitlines() == [
        "", "PrivateKey = own=", "", "# store", "[Peer]", "PublicKey = store=", "AllowedIPs = 198.18.0.11/32",
        "Endpoint = 10.10.0.11:51820", "PersistentKeepalive = 25",
    ]  # fmt: skip
    peers = tunnel.peers(SITE, "store", inside, "10.10.0.11:51820", lambda name: f"{name}=")
    server = render(
        "wireguard", "wg-tree.conf.j2", wireguard_private_key="own=", wireguard_peers=peers, wireguard_listens=True
    )
    assert "ListenPort = 51820" in server
    assert server.count("[Peer]") == 3
    assert "Endpoint" not in server


def test_the_tunnel_is_up_before_what_goes_through_it(render: Callable[..., str]) -> None:
    unit = render("wireguard", "wg-tree.service.j2", wireguard_address="198.18.0.21", wireguard_network="198.18.0.0/16")
    assert "Before=remote-fs-pre.target nfs-server.service" in unit
    assert "Wants=remote-fs-pre.target" in unit
    steps = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    # First, and it stays: what is for the tunnel goes nowhere else.
    assert steps[0] == "/usr/bin/ip route replace unreachable 198.18.0.0/16 metric 4096"
    assert "/usr/bin/ip address add 198.18.0.21/16 dev wg-tree" in steps
    assert "unreachable" not in unit.partition("ExecReload")[2]


def test_keys_are_for_root_and_no_difference_shows_them(root: Path) -> None:
    (conf,) = yaml.safe_load((root / "roles/wireguard/vars/main.yml").read_text())["__wireguard_access"]
    assert (conf["mode"], conf["secret"]) == ("0600", True)
