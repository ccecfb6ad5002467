"""What the tests of a deployed platform share: where it is, a logged-in client, and what is uploaded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from client import Account, Client, Samples, step

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN_SAMPLES = Path(__file__).parent / "samples"
KRAKEN_PAGE = "170025120000003,0074"
#: Small recognition models of Kraken's source distribution, the better one first.
KRAKEN_MODELS = ("overfit_newpoly.mlmodel", "overfit.mlmodel")
NEEDED = ("PLATFORM_URL", "PLATFORM_USER", "PLATFORM_PASSWORD")


@pytest.fixture(scope="session")
def account() -> Account:
    """Give the platform's address and the account."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} do not name a platform")
    url, user, password = (os.environ[name] for name in NEEDED)
    return Account(url, user, password, os.environ.get("PLATFORM_CA", ""))


@pytest.fixture(scope="session")
def client(account: Account) -> Iterator[Client]:
    """Give a client that is logged in with its key."""
    made = Client(account)
    with step(f"log in to {account.url} with the API key"):
        made.log_in_with_token()
    yield made
    made.http.close()


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Give Kraken's samples, or our own."""
    named = os.environ.get("PLATFORM_SAMPLES")
    if not named:
        model = tmp_path_factory.mktemp("model") / "tiny.mlmodel"
        model.write_bytes(b"not a model: the stand-in does not look\n")
        return Samples(OWN_SAMPLES / "page.png", OWN_SAMPLES / "page.xml", model, "page.png", 12)
    folder = Path(named)
    xml = folder / f"{KRAKEN_PAGE}.xml"
    text = xml.read_text()
    name = re.search(r'imageFilename="([^"]+)"', text)
    assert name, f"{xml} names no image"
    models = [folder / model for model in KRAKEN_MODELS if (folder / model).is_file()]
    return Samples(
        folder / f"{KRAKEN_PAGE}.jpg", xml, models[0] if models else None, name.group(1), text.count("<TextLine ")
    )
