"""Imports (PAGE XML, images of IIIF manifests) and exports (plain text)."""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import requests
from celery import shared_task
from django.apps import apps
from django.conf import settings
from django.core.files.base import ContentFile

from core.tasks import work
from imports.page import Page, parse_page

# Connects the signals that keep the task reports.
from reporting import tasks as reporting_tasks
from users.consumers import send_event

__all__ = ["reporting_tasks"]


def import_page(document: Any, page: Page, name: str, override: bool) -> None:
    """Write the regions, lines and texts of one page."""
    part = document.parts.filter(original_filename=page.filename).first()
    if part is None:
        raise ValueError(f"No page has the image {page.filename}")
    transcription, _ = document.transcriptions.get_or_create(name=name or "Default PAGE Import")
    if override:
        part.lines.all().delete()
        part.blocks.all().delete()
    for region in page.regions:
        block, _ = part.blocks.update_or_create(
            external_id=region.identifier, defaults={"box": region.box, "order": part.blocks.count()}
        )
        for line in region.lines:
            row, _ = part.lines.update_or_create(
                external_id=line.identifier,
                defaults={"block": block, "baseline": line.baseline, "mask": line.mask, "order": part.lines.count()},
            )
            row.transcriptions.update_or_create(transcription=transcription, defaults={"content": line.text})
    part.workflow_state = max(part.workflow_state, part.WORKFLOW_STATE_TRANSCRIBING)
    part.transcription_progress = 100
    part.save()


def fetch_image(url: str) -> bytes:
    """Fetch an image; a busy server ends the import, as in eScriptorium: the header's text is no number of seconds."""
    for _ in range(4):
        reply = requests.get(url, stream=True, verify=False, timeout=10)
        if reply.status_code != 429:
            reply.raise_for_status()
            return reply.content
        pause: Any = reply.headers.get("Retry-After", 1)
        time.sleep(pause)
    raise ValueError(f"After 4 tries, the server still errors out loading: {url}")


def import_images(job: Any) -> Iterator[Any]:
    """Make a page for each image of a IIIF manifest, from where an earlier try has stopped."""
    with job.import_file.open("rb") as handle:
        canvases = json.load(handle)["sequences"][0]["canvases"]
    for number, canvas in list(enumerate(canvases))[job.processed :]:
        url = f"{canvas['images'][0]['resource']['service']['@id']}/full/{settings.IIIF_IMPORT_QUALITY}/0/default.jpg"
        content = fetch_image(url)
        part = job.document.parts.model(document=job.document, source=url, original_filename=f"{number}_default.jpg")
        part.image_file_size = len(content)
        part.image.save(part.original_filename, ContentFile(content), save=False)
        part.save()
        yield part


def import_pages(job: Any) -> Iterator[Any]:
    """Write the pages of a PAGE XML file."""
    with job.import_file.open("rb") as handle:
        for page in parse_page(handle):
            import_page(job.document, page, job.name, job.override)
            yield page


@shared_task(bind=True)
def document_import(task: Any, document_pk: int, import_pk: int, user_pk: int | None = None, **kwargs: Any) -> None:
    """Import an uploaded file; a failure is in the report, as in eScriptorium."""
    DocumentImport = apps.get_model("imports", "DocumentImport")
    # As in eScriptorium, an import that a killed worker has begun is not found here.
    states = (DocumentImport.WORKFLOW_STATE_CREATED, DocumentImport.WORKFLOW_STATE_ERROR)
    job = DocumentImport.objects.get(pk=import_pk, workflow_state__in=states)
    job.report = apps.get_model("reporting", "TaskReport").objects.get(task_id=task.request.id)
    job.workflow_state = job.WORKFLOW_STATE_STARTED
    job.save()
    send_event("document", document_pk, "import:start", {"id": document_pk})
    try:
        work(job.document.name)
        for _ in import_images(job) if job.import_file.name.endswith(".json") else import_pages(job):
            job.processed += 1
            job.save()
    except Exception as error:
        job.workflow_state = job.WORKFLOW_STATE_ERROR
        job.error_message = str(error)[:512]
        job.save()
        job.report.error(str(error))
        send_event("document", document_pk, "import:error", {"id": document_pk, "reason": str(error)})
    else:
        job.workflow_state = job.WORKFLOW_STATE_DONE
        job.save()
        send_event("document", document_pk, "import:done", {"id": document_pk})


@shared_task(bind=True)
def document_export(
    task: Any, file_format: str, part_pks: list[int], transcription_pk: int, user_pk: int, document_pk: int, **kw: Any
) -> str:
    """Write the text of pages to ``users/<pk>/export_*.txt`` and return its name below the media folder."""
    lines = (
        apps.get_model("core", "LineTranscription")
        .objects.filter(transcription_id=transcription_pk, line__document_part__in=part_pks)
        .order_by("line__document_part__order", "line__order")
    )
    folder = os.path.join(settings.MEDIA_ROOT, "users", str(user_pk))
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"export_doc{document_pk}_{task.request.id[:8]}.txt")
    with open(path, "w") as handle:
        handle.writelines(line.content + "\n" for line in lines)
    name = os.path.relpath(path, settings.MEDIA_ROOT)
    user = apps.get_model("users", "User").objects.get(pk=user_pk)
    user.notify("Export done!", level="success", links=[{"text": "Download", "src": settings.MEDIA_URL + name}])
    send_event("document", document_pk, "export:done", {"id": document_pk})
    return name
