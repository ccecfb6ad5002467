"""The platform as its users and its operator see it: pages, logins, limits, certificates, releases."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from support import REQUEST_TIMEOUT, Inventory, Site, play

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Database

pytestmark = pytest.mark.scenario("single", "cluster")


def application_hosts(inventory: Inventory) -> list[str]:
    return sorted({inventory.frontend, *inventory.compute})


def test_units_run_and_start_at_boot(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    queues = {f"escriptorium-worker@{queue}" for queue in ("default", "live", "low-priority", "gpu")}
    wanted = {name: set(queues) for name in inventory.compute}
    wanted.setdefault(inventory.frontend, set()).update(
        {"escriptorium-web", "escriptorium-websocket", "escriptorium-worker@imports"},
        {"nginx", "postgresql", "redis-server"},
    )
    for name, units in wanted.items():
        host = connect(name)
        for unit in sorted(units):
            assert host.service(unit).is_running, f"{unit} on {name}"
            assert host.service(unit).is_enabled, f"{unit} on {name}"


def test_no_unit_failed(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    for name in inventory.hosts:
        assert connect(name).check_output("systemctl list-units --failed --plain --no-legend") == "", name


def test_cleanup_timers_wait(frontend: Any) -> None:
    timers = frontend.check_output("systemctl list-timers --all --no-legend 'escriptorium-*'")
    assert "escriptorium-reaper.timer" in timers
    frontend.check_output("systemctl start escriptorium-reaper.service")
    for command in ("cleanup_models_versioning", "check_quotas"):
        assert f"escriptorium-{command}.timer" in timers
        frontend.check_output("systemctl start %s", f"escriptorium-manage@{command}.service")


def test_plain_http_leads_to_tls(site: Site) -> None:
    reply = requests.get(
        f"http://{site.address}/projects/?page=2",
        headers={"Host": site.domain},
        allow_redirects=False,
        timeout=REQUEST_TIMEOUT,
        proxies={"http": ""},
    )
    assert (reply.status_code, reply.headers["Location"]) == (301, f"https://{site.domain}/projects/?page=2")


def test_administrator_logs_in_over_tls_with_csrf(site: Site) -> None:
    session, reply = site.log_in()
    assert reply.status_code == 302
    assert {"sessionid", "csrftoken"} <= {cookie.name for cookie in session.cookies}
    assert all(cookie.secure for cookie in session.cookies)
    profile = session.get(f"{site.base}/profile/apikey/", allow_redirects=False, timeout=REQUEST_TIMEOUT)
    assert profile.status_code == 200


@pytest.mark.parametrize("password", ["admin", "", "changeme"])
def test_well_known_passwords_do_not_open_the_site(site: Site, password: str) -> None:
    session, reply = site.log_in(password)
    assert reply.status_code == 200  # the form again
    assert "sessionid" not in {cookie.name for cookie in session.cookies}


def test_login_without_csrf_token_is_refused(site: Site) -> None:
    reply = site.session().post(
        f"{site.base}/login/", data={"username": "admin", "password": site.password}, timeout=REQUEST_TIMEOUT
    )
    assert reply.status_code == 403


def from_address(frontend: Any, site: Site, address: str, program: str) -> Any:
    """Run Python on the frontend with `ask(method, path, **body)`, which asks nginx from an address of the loopback.

    Answers what the program has put into `found`.
    """
    script = (
        "import http.client,json,ssl\n"
        "found=[]\n"
        f"def ask(method,path,address={address!r},**body):\n"
        "  c=http.client.HTTPSConnection('127.0.0.1',source_address=(address,0),timeout=30,"
        "context=ssl._create_unverified_context())\n"
        f"  c.request(method,path,json.dumps(body),{{'Host':{site.domain!r},'Content-Type':'application/json'}})\n"
        "  r=c.getresponse()\n"
        "  return r.status,dict(r.getheaders()),r.read().decode()\n"
        f"{program}\n"
        "print(json.dumps(found))\n"
    )
    return json.loads(frontend.check_output("python3 -c %s", script))


def test_passwords_are_guessed_slowly_from_one_address(frontend: Any, site: Site) -> None:
    """As a site has it that sets nothing. The form refuses these for want of a key against forgery: none is counted."""
    rate, burst = 10, 20
    answers = from_address(
        frontend, site, "127.0.7.7", f"for _ in range({burst + rate}): found.append(ask('POST','/login/')[::2])"
    )
    statuses = [status for status, _ in answers]
    assert set(statuses) == {403, 429}
    # One more each six seconds.
    assert burst < statuses.count(403) < burst + rate, statuses
    assert "Wait a minute" in answers[statuses.index(429)][1]
    others = from_address(
        frontend,
        site,
        "127.0.7.7",
        "for _ in range(9): ask('POST','/login/')\n"
        "found+=[ask('GET','/login/')[0],ask('POST','/api/token-auth/')[0],ask('POST','/admin/login/')[0],"
        "ask('POST','//%6cogin/')[0],ask('POST','/login/',address='127.0.7.8')[0]]",
    )
    assert others == [200, 429, 429, 429, 403], "pages are free, and so are others"


def test_wrong_passwords_count_for_an_account_and_a_network(frontend: Any, site: Site) -> None:
    name = f"guessed-{time.time_ns()}"
    answers = from_address(
        frontend,
        site,
        "127.0.8.1",
        f"body={{'username':{name!r},'password':'wrong'}}\n"
        "for last in range(1,13): found.append(ask('POST','/api/token-auth/',f'127.0.8.{last}',**body))\n"
        "found.append(ask('POST','/api/token-auth/','127.0.9.1',**body))",
    )
    assert [status for status, _, _ in answers] == [400] * 10 + [429] * 2 + [400]
    _, headers, body = answers[11]
    assert 0 < int(headers["Retry-After"]) <= 900
    assert "Too many wrong passwords for this account from your network" in body


def test_administration_is_open_to_the_networks_that_the_site_names(
    frontend: Any, site: Site, inventory: Inventory
) -> None:
    """The scenario `single` names the network that this computer is the gateway of; the loopback is none."""
    named = inventory.hosts[inventory.frontend].get("nginx_admin_networks", [])
    inside = site.session().get(f"{site.base}/admin/", allow_redirects=False, timeout=REQUEST_TIMEOUT)
    assert (inside.status_code, inside.headers["Location"]) == (302, "/admin/login/?next=/admin/")
    program = "found+=[ask('GET',path)[0] for path in ('/admin/','/admin/login/','/login/')]"
    outside = from_address(frontend, site, "127.0.10.1", program)
    assert outside == ([403, 403, 200] if named else [302, 200, 200])


def test_administrators_stay_logged_in_for_half_a_day(site: Site) -> None:
    session, _ = site.log_in()
    (cookie,) = [cookie for cookie in session.cookies if cookie.name == "sessionid"]
    assert cookie.expires is not None
    assert 11.9 < (cookie.expires - time.time()) / 3600 < 12.1


def test_a_link_of_the_site_logs_out(site: Site) -> None:
    session, _ = site.log_in()

    def ask(path: str, **headers: str) -> int:
        reply = session.get(f"{site.base}{path}", headers=headers, allow_redirects=False, timeout=REQUEST_TIMEOUT)
        return reply.status_code

    browser = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert ask("/logout/", **browser, **{"Sec-Fetch-Site": "cross-site"}) == 200, "asked first"
    assert ask("/profile/apikey/") == 200
    assert ask("/logout/", **browser, **{"Sec-Fetch-Site": "same-origin"}) == 302
    assert ask("/profile/apikey/") == 302


def test_short_and_common_passwords_are_refused(frontend: Any) -> None:
    tried = "'Short-1', 'administrator', '123456789012', 'correct-horse-battery'"
    answer = frontend.check_output(
        "/usr/local/bin/escriptorium-manage shell -c %s",
        "from django.contrib.auth.password_validation import validate_password as v\n"
        "from django.core.exceptions import ValidationError\n"
        "def refused(word):\n"
        "    try: v(word)\n"
        "    except ValidationError: return True\n"
        "    return False\n\n"
        f"print([refused(word) for word in ({tried})])",
    )
    assert answer.splitlines()[-1] == "[True, True, True, False]"


def test_foreign_host_names_are_refused(site: Site) -> None:
    reply = site.session().get(f"{site.base}/login/", headers={"Host": "evil.test"}, timeout=REQUEST_TIMEOUT)
    assert reply.status_code == 421


def test_health_names_database_broker_and_media(site: Site) -> None:
    reply = site.session().get(f"{site.base}/health/", timeout=REQUEST_TIMEOUT)
    assert reply.status_code == 200
    assert reply.json()["ok"] is True


def test_metrics_are_not_public(site: Site, frontend: Any, inventory: Inventory) -> None:
    """The network of the cluster may read them; a request that came in through another address may not."""
    inside = frontend.check_output(
        "python3 -c %s",
        "import ssl,urllib.request as u;"
        f"r=u.Request('https://127.0.0.1/metrics',headers={{'Host':{site.domain!r}}});"
        "print(u.urlopen(r,context=ssl._create_unverified_context()).status)",
    )
    assert inside == "200"
    # This computer is a member of the containers' network (its gateway), so an address from elsewhere is put on.
    outside = frontend.check_output(
        "ip address replace 192.0.2.7/32 dev lo && python3 -c %s; ip address delete 192.0.2.7/32 dev lo",
        "import http.client,ssl;"
        "c=http.client.HTTPSConnection('127.0.0.1',source_address=('192.0.2.7',0),"
        "context=ssl._create_unverified_context());"
        f"c.request('GET','/metrics',headers={{'Host':{site.domain!r}}});print(c.getresponse().status)",
    )
    assert outside in {"403", "404"}
    assert inventory.value("site_private_network")


def test_uploads_are_bounded_where_the_documents_say(site: Site) -> None:
    """Nginx reads the announced length: no byte of the body needs to be sent."""
    session = site.session()

    def announce(size_mib: int) -> int:
        request = requests.Request("POST", f"{site.base}/api/token-auth/", headers={"Host": site.domain}, data=b"x")
        prepared = session.prepare_request(request)
        prepared.headers["Content-Length"] = str(size_mib * 1024 * 1024)
        prepared.headers["Expect"] = "100-continue"
        try:
            return int(session.send(prepared, timeout=5, verify=session.verify).status_code)
        except requests.exceptions.ReadTimeout:
            return 0  # accepted: the server waits for the rest of the body

    assert announce(151) == 413
    assert announce(149) == 0


def test_static_files_and_media_are_served_by_nginx(
    site: Site, connect: Callable[[str], Any], inventory: Inventory
) -> None:
    compute = connect(inventory.compute[0])
    folder = "/srv/escriptorium/media/documents/999999"
    compute.check_output(f"runuser -u escriptorium -- sh -c 'mkdir -p {folder} && echo shared > {folder}/check.txt'")
    reply = site.api.session.get(f"{site.base}/media/documents/999999/check.txt", timeout=REQUEST_TIMEOUT)
    assert (reply.status_code, reply.text) == (200, "shared\n")
    for path in ("media/", "media/documents/", "media/documents/999999/"):
        listing = site.api.session.get(f"{site.base}/{path}", timeout=REQUEST_TIMEOUT)
        assert listing.status_code in {403, 404}
    static = site.session().get(f"{site.base}/static/rest_framework/css/default.css", timeout=REQUEST_TIMEOUT)
    assert static.status_code == 200
    compute.check_output(f"rm -r {folder}")


def test_websocket_opens_through_nginx(site: Site) -> None:
    session, _ = site.log_in()
    status, headers = site.open_websocket(session)
    assert status == 101
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3


def test_websocket_refuses_other_sites(site: Site) -> None:
    session, _ = site.log_in()
    status, _ = site.open_websocket(session, origin="https://evil.test")
    assert status == 403


def test_site_row_names_the_real_domain(database: Database, site: Site) -> None:
    assert [row["domain"] for row in database.rows("SELECT domain FROM django_site")] == [site.domain]


def test_secrets_are_unreadable_for_others(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    for name in application_hosts(inventory):
        file = connect(name).file("/etc/escriptorium/escriptorium.env")
        assert (file.user, file.group, file.mode) == ("root", "root", 0o600)
        for secret in ("secret_postgresql_password", "secret_redis_password", "secret_django_key"):
            shown = connect(name).check_output(
                "ps --no-headers -ww -e -o args; systemctl show '*' --property=ExecStart,Environment"
            )
            assert str(inventory.value(secret)) not in shown
    mode = (inventory.folder / "group_vars/all/secrets.yml").stat().st_mode
    assert mode & 0o077 == 0


def test_processes_do_not_run_as_root(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    for name in application_hosts(inventory):
        users = connect(name).check_output(
            "ps --no-headers -e -o user:32,args | awk '/opt.escriptorium.releases/ && !/awk/ {print $1}' | sort -u"
        )
        assert users == "escriptorium", name


def test_debug_is_off_everywhere(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    for name in application_hosts(inventory):
        assert connect(name).run("grep -E '^DEBUG=' /etc/escriptorium/escriptorium.env").rc == 1
    answer = connect(inventory.frontend).check_output(
        "/usr/local/bin/escriptorium-manage shell -c 'from django.conf import settings; print(settings.DEBUG)'"
    )
    assert answer.splitlines()[-1] == "False"


def test_release_is_the_same_on_all_hosts(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    seen = set()
    for name in application_hosts(inventory):
        host = connect(name)
        release = json.loads(host.check_output("cat /opt/escriptorium/current/release.json"))
        content = host.check_output(
            "cd /opt/escriptorium/current/ && find . -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z | "
            "xargs -0 sha256sum | sha256sum"
        )
        writable = host.check_output("find -L /opt/escriptorium/current/app -user escriptorium | head -n 1")
        assert writable == "", "the service may not change its own program"
        seen.add((release["id"], content))
    assert len(seen) == 1


def test_release_holds_the_patches_of_the_site(inventory: Inventory, frontend: Any) -> None:
    release = json.loads(frontend.check_output("cat /opt/escriptorium/current/release.json"))
    assert release["patches"] == [
        Path(patch).name for patch in inventory.hosts[inventory.frontend].get("escriptorium_patches", [])
    ]
    assert frontend.file("/opt/escriptorium/current/app/PATCHED").exists == bool(release["patches"])


def test_kraken_is_on_the_path_of_compute_hosts(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    for name in inventory.compute:
        assert "kraken" in connect(name).check_output("kraken --version")
        assert "ketos" in connect(name).check_output("ketos --version")


def test_dry_run_on_the_converged_cluster_changes_nothing(inventory: Inventory) -> None:
    run = play(inventory, "site.yml", "--check", "--diff")
    assert run.changed == []
    assert {host: counts["changed"] for host, counts in run.stats.items() if counts["changed"]} == {}
