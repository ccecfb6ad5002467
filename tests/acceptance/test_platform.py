"""A user's whole way through a platform, by its public interface alone.

    PLATFORM_URL=https://htr.example.org PLATFORM_USER=admin PLATFORM_PASSWORD=... [PLATFORM_CA=ca.pem]
    [PLATFORM_SAMPLES=kraken-5.3.0/tests/resources] [PLATFORM_EPOCHS=3] pytest -s tests/acceptance

Prints one line for each step with its seconds, so that a run's output is a log to keep. Where the PyPI package
escriptorium-connector has a function that works with this release, it is used; the rest goes through ``client``.

Samples: with ``PLATFORM_SAMPLES`` naming the folder of Kraken's source distribution, a manuscript page, its ground
truth (44 lines) and a small model; otherwise the tiny page and PAGE file of our own in ``samples/``.

Length of a training: upstream stops when ten epochs brought nothing better (and after 100 at the latest), and no
setting, request or property of a base model changes that: the task overrides what a model brings. So this test lets
``PLATFORM_EPOCHS`` epochs (3) come and then cancels the training as a user does; the model of the last epoch is a
file of its own and is fetched. ``PLATFORM_EPOCHS=0`` waits for the natural end instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from client import CANCELED, FINAL, FINISHED, Account, Client, Json, PlatformError, Samples, step, wait_until

if TYPE_CHECKING:
    from pathlib import Path

#: Seconds: segmentation of a page takes 12 to 25 s on two cores, an epoch 46 s.
PAGE_SECONDS, EPOCH_SECONDS = 900.0, 900.0
#: Whether the real client is installed (it has an environment of its own: it asks for old libraries).
CONNECTOR = importlib.util.find_spec("escriptorium_connector") is not None

# The real client uses an old name of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Using 'method_whitelist':DeprecationWarning")


@pytest.fixture(scope="module")
def document(account: Account, client: Client) -> Json:
    """Create a project, through escriptorium-connector where it is installed, and a document in it.

    The connector cannot make documents here: it waits for a field that eScriptorium 05d3a0d4 does not answer with.
    """
    label = time.strftime("acceptance %Y-%m-%d %H:%M:%S")
    if CONNECTOR:
        with step("create a project with escriptorium-connector"):
            slug = create_project_with_connector(account, label)
    else:
        with step("create a project"):
            slug = client.create_project(label)["slug"]
    with step("create a document"):
        return client.create_document(label, slug)


def connect(account: Account) -> Any:
    """Log in with escriptorium-connector, which uses the login form and reads the key from the profile page."""
    # It has no parameter for the authority's file, but its HTTP library reads this variable.
    if account.ca:
        os.environ["REQUESTS_CA_BUNDLE"] = account.ca
    module = importlib.import_module("escriptorium_connector")
    return module.EscriptoriumConnector(account.url, account.user, account.password, http_read_timeout=60)


def create_project_with_connector(account: Account, label: str) -> str:
    """Create a project and return its slug."""
    dtos = importlib.import_module("escriptorium_connector.dtos")
    connector = connect(account)
    slug: str = connector.create_project(dtos.PostProject(label)).slug
    assert slug in [entry.slug for entry in connector.get_projects().results]
    connector.http.close()
    return slug


@pytest.fixture(scope="module")
def page(client: Client, document: Json, samples: Samples) -> Json:
    """Upload the page."""
    with step(f"upload {samples.image.name} ({samples.image.stat().st_size} bytes)"):
        made = client.upload_page(document["pk"], samples.image, samples.image_name)
    assert made["image"]["size"][0] > 100
    return made


def transcriptions(client: Client, document: int) -> dict[str, int]:
    """Return the numbers of a document's transcriptions by name."""
    return {entry["name"]: entry["pk"] for entry in client.get(f"documents/{document}/transcriptions/")}


def texts(client: Client, document: int, page: int, transcription: int) -> list[str]:
    """Return the texts of a page's lines."""
    path = f"documents/{document}/parts/{page}/transcriptions/"
    return [entry["content"] for entry in client.everything(path, transcription=transcription) if entry["content"]]


def test_a_browser_logs_in_and_gets_notifications(client: Client) -> None:
    with step("log in with the form"):
        browser = client.log_in_with_form()
    with step("open the WebSocket /ws/notif/"), client.notifications(browser) as connection:
        assert connection.connected
    browser.close()


def test_the_default_password_does_not_work(account: Account) -> None:
    stranger = Client(Account(account.url, "admin", "admin", account.ca))
    with step("log in as admin with the password admin: refused"), pytest.raises(PlatformError, match="400"):
        stranger.log_in_with_token()
    stranger.http.close()


def test_an_uploaded_page_can_be_fetched(client: Client, page: Json, samples: Samples) -> None:
    with step("fetch the image back"):
        assert client.download(page["image"]["uri"]) == samples.image.read_bytes()
        assert client.download_without_login(page["image"]["uri"]) == 401


def test_a_page_is_segmented(client: Client, document: Json, page: Json) -> None:
    with step("segment with the default model"):
        client.post(f"documents/{document['pk']}/segment/", {"parts": [page["pk"]], "steps": "both", "override": True})
        client.wait_for_tasks(document["pk"], "core.tasks.segment", seconds=PAGE_SECONDS)
    part = client.get(f"documents/{document['pk']}/parts/{page['pk']}/")
    assert part["workflow"]["segment"] == "done"
    assert len(part["lines"]) >= 5
    print(f"            {len(part['lines'])} lines, {len(part['regions'])} regions")


def test_ground_truth_is_imported(
    account: Account, client: Client, document: Json, page: Json, samples: Samples
) -> None:
    if CONNECTOR:
        with step(f"import {samples.xml.name} with escriptorium-connector"):
            connector = connect(account)
            content = io.BytesIO(samples.xml.read_bytes())
            connector.upload_part_transcription(document["pk"], "ground truth", samples.xml.name, content, "on")
            connector.http.close()
    else:
        with step(f"import {samples.xml.name}"):
            client.import_page_xml(document["pk"], samples.xml, "ground truth")
    with step("the import ends"):
        client.wait_for_tasks(document["pk"], "imports.tasks.document_import", seconds=PAGE_SECONDS)
    found = texts(client, document["pk"], page["pk"], transcriptions(client, document["pk"])["ground truth"])
    assert len(found) == samples.lines
    print(f"            {len(found)} lines, the first: {found[0]}")


def test_a_page_is_transcribed(client: Client, document: Json, page: Json, samples: Samples) -> None:
    if samples.model is None:
        pytest.skip("PLATFORM_SAMPLES holds no recognition model")
    with step(f"upload {samples.model.name}"):
        model = client.upload_model(samples.model, "small")
    with step("transcribe with it"):
        transcribe(client, document["pk"], page["pk"], model["pk"], "small")
    assert client.download(model["file"]) == samples.model.read_bytes()


def transcribe(client: Client, document: int, page: int, model: int, name: str) -> None:
    """Recognise a page into a transcription of this name and wait for the end."""
    before = len(client.tasks(document, "core.tasks.transcribe"))
    target = client.post(f"documents/{document}/transcriptions/", {"name": name})["pk"]
    content = {"parts": [page], "model": model, "transcription": target}
    client.post(f"documents/{document}/transcribe/", content)
    client.wait_for_tasks(document, "core.tasks.transcribe", count=before + 1, seconds=PAGE_SECONDS)
    lines = client.everything(f"documents/{document}/parts/{page}/transcriptions/", transcription=target)
    assert lines, "recognition wrote no line"


def test_a_model_is_trained_and_used(
    client: Client, document: Json, page: Json, samples: Samples, tmp_path: Path
) -> None:
    epochs = int(os.environ.get("PLATFORM_EPOCHS", "3"))
    content = {
        "parts": [page["pk"]],
        "transcription": transcriptions(client, document["pk"])["ground truth"],
        "model_name": f"trained {time.strftime('%H%M%S')}",
    }
    with step(f"ask for the training of a recognition model on {samples.lines} lines"):
        client.post(f"documents/{document['pk']}/train/", content)
    model = next(entry for entry in client.everything("models/") if entry["name"] == content["model_name"])

    def state() -> Json:
        answer: Json = client.get(f"models/{model['pk']}/")
        return answer | {"report": client.tasks(document["pk"], "core.tasks.train")[0]}

    def over(answer: Json) -> bool:
        return bool(answer["report"]["workflow_state"] in FINAL)

    def reached(wanted: int, answer: Json) -> bool:
        return len(answer["versions"]) >= wanted or over(answer)

    for epoch in range(1, (epochs or 1000) + 1):
        with step(f"epoch {epoch}"):
            now = wait_until(state, partial(reached, epoch), EPOCH_SECONDS, f"epoch {epoch}", 2)
        print(f"            accuracy {now['accuracy_percent']:.1f} %")
        if over(now):
            break
    if not over(now):
        with step("cancel the training"):
            client.post(f"models/{model['pk']}/cancel_training/")
    now = state()
    assert now["report"]["workflow_state"] in (FINISHED, CANCELED), now["report"]["messages"]
    assert now["training"] is False
    assert len(now["versions"]) >= (epochs or 1)
    with step("fetch the model of the last epoch"):
        data = client.download(now["versions"][0]["data"]["file"])
    assert len(data) > 50
    print(f"            {len(data)} bytes")
    fetched = tmp_path / "trained.mlmodel"
    fetched.write_bytes(data)
    with step("upload it again and transcribe with it"):
        again = client.upload_model(fetched, f"{content['model_name']} fetched")
        transcribe(client, document["pk"], page["pk"], again["pk"], "trained")
