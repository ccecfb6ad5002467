"""Jobs: what users start through the REST API runs on compute hosts, and its results arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import Database, Inventory, Site, wait_for, workers_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.scenario("single", "cluster")


def test_page_is_segmented_on_a_compute_host(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    document, parts = site.api.document("segmentation", pages=2)
    site.api.segment(document, parts)
    report = database.finished(document, "core.tasks.segment")

    (host, unit), *others = workers_of(inventory, connect, report["task_id"])
    assert host in inventory.compute
    assert unit == "escriptorium-worker@default.service"
    assert others == [], "taken once"

    def all_lines() -> bool:
        pages = ", ".join(map(str, parts))
        counted = database.rows(
            f"SELECT document_part_id, count(*) FROM core_line WHERE document_part_id IN ({pages}) "
            "GROUP BY document_part_id"
        )
        return len(counted) == len(parts) and all(row["count"] > 0 for row in counted)

    wait_for("lines of every page in the database", all_lines)


def test_thumbnails_are_made_by_the_low_priority_queue(
    site: Site, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    """EScriptorium keeps no report of these jobs, so the files and the journals tell."""
    document, _ = site.api.document("thumbnails")
    compute = connect(inventory.compute[0])

    def thumbnails() -> bool:
        return len(compute.check_output(f"ls /srv/escriptorium/media/documents/{document}").split()) > 1

    wait_for("thumbnails beside the image", thumbnails, timeout=60)
    taken = workers_of(inventory, connect, "core.tasks.generate_part_thumbnails")
    assert {unit for _, unit in taken} == {"escriptorium-worker@low-priority.service"}
    assert {host for host, _ in taken} <= set(inventory.compute)


def test_uploaded_page_is_served(site: Site, database: Database) -> None:
    document, (part,) = site.api.document("upload")
    stored = database.rows(f"SELECT image FROM core_documentpart WHERE id = {part}")[0]["image"]
    assert stored.startswith(f"documents/{document}/")
    reply = site.api.session.get(f"{site.base}/media/{stored}", timeout=30)
    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == "image/png"


def test_model_is_trained_through_the_gpu_queue(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    document, parts = site.api.document("training", pages=2)
    site.api.segment(document, parts)
    database.finished(document, "core.tasks.segment")
    site.api.train(document, parts, "trained here")
    report = database.finished(document, "core.tasks.train")

    (host, unit), *others = workers_of(inventory, connect, report["task_id"])
    assert (host in inventory.compute, unit, others) == (True, "escriptorium-worker@gpu.service", [])
    model = database.rows("SELECT file, training FROM core_ocrmodel WHERE name = 'trained here'")[0]
    assert model["training"] is False
    content = site.api.session.get(f"{site.base}/media/{model['file']}", timeout=30)
    assert content.status_code == 200
    assert content.content
