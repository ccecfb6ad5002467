"""The jobs, under eScriptorium's names. They wait a moment and write made-up results: real rows, real files.

How long: ``STAND_IN_WORK_SECONDS`` for a page, ``STAND_IN_EPOCHS`` times ``STAND_IN_SECONDS_PER_EPOCH`` for a
training. A name that contains ``hold-60`` (of the document; for a training of the new model) makes a job last 60
seconds instead, and ``hold-until-NAME`` until the media have a file NAME, so that a test can stop, drain or kill a
worker that is busy. A model's name that contains ``eat-600`` makes its training take 600 MiB of memory, so that a test
can see what the kernel does about that.
"""

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import shared_task
from django.apps import apps
from django.conf import settings
from django.utils.text import slugify
from PIL import Image

# Connects the signals that keep the task reports.
from reporting import tasks as reporting_tasks
from users.consumers import send_event

logger = logging.getLogger(__name__)
__all__ = ["reporting_tasks"]

#: Lines that the made-up segmentation puts on a page.
LINES_PER_PAGE = 8
#: What a training writes: no model, and it says so.
MODEL_TEXT = "A stand-in for a model, epoch {epoch} of {name}. It recognises nothing.\n"
THUMBNAILS = {"list": (50, 50), "card": (180, 180), "large": (1000, 1000)}


def hold(name: str, seconds: float, share: float = 1) -> None:
    """Sleep for a share of these seconds, or of what ``hold-SECONDS`` or ``hold-until-FILE`` in a name asks for."""
    if found := re.search(r"\bhold-until-(\w+)", name):
        while not os.path.exists(os.path.join(settings.MEDIA_ROOT, found.group(1))):
            time.sleep(0.5)
        return
    if found := re.search(r"\bhold-(\d+)\b", name):
        seconds = float(found.group(1))
    time.sleep(seconds * share)


def eat(name: str) -> bytes:
    """Return as many MiB of memory, all of it in use, as ``eat-MIB`` in a name asks for; else none."""
    found = re.search(r"\beat-(\d+)\b", name)
    return b"x" * (int(found.group(1)) << 20 if found else 0)


def work(name: str) -> None:
    """Take the time of one page of a document with this name."""
    hold(name, settings.STAND_IN_WORK_SECONDS)


def get_part(pk: int) -> Any:
    """Return a page."""
    return apps.get_model("core", "DocumentPart").objects.select_related("document").get(pk=pk)


def notify(user_pk: int | None, text: str, id: str, level: str = "success") -> None:
    """Tell the user, if there is one."""
    user = apps.get_model("users", "User").objects.filter(pk=user_pk).first()
    if user is not None:
        user.notify(text, id=id, level=level)


@shared_task
def generate_part_thumbnails(instance_pk: int, user_pk: int | None = None, **kwargs: Any) -> dict[str, str]:
    """Write the thumbnails beside the image."""
    part = get_part(instance_pk)
    names = {}
    for alias, size in THUMBNAILS.items():
        names[alias] = part.thumbnail_name(alias)
        with Image.open(part.image.path) as image:
            small = image.convert("RGB")
            small.thumbnail(size)
            small.save(os.path.join(settings.MEDIA_ROOT, names[alias]), "JPEG")
    return names


@shared_task
def convert(instance_pk: int, user_pk: int | None = None, **kwargs: Any) -> None:
    """Do nothing: conversion is off in eScriptorium's settings too."""
    logger.info("Nothing to convert for page %d.", instance_pk)


@shared_task
def lossless_compression(instance_pk: int, user_pk: int | None = None, **kwargs: Any) -> None:
    """Mark the page as converted; nothing is compressed."""
    part = get_part(instance_pk)
    if part.workflow_state < part.WORKFLOW_STATE_CONVERTED:
        part.workflow_state = part.WORKFLOW_STATE_CONVERTED
        part.save(update_fields=["workflow_state"])


@shared_task
def segment(
    instance_pks: list[int],
    user_pk: int | None = None,
    model_pk: int | None = None,
    steps: str = "both",
    override: bool = False,
    **kwargs: Any,
) -> None:
    """Put one region and evenly spaced lines on each page."""
    Block, Line = apps.get_model("core", "Block"), apps.get_model("core", "Line")
    for pk in instance_pks:
        part = get_part(pk)
        part.workflow_state = part.WORKFLOW_STATE_SEGMENTING
        part.save(update_fields=["workflow_state"])
        work(part.document.name)
        if override:
            part.lines.all().delete()
            part.blocks.all().delete()
        with Image.open(part.image.path) as image:
            width, height = image.size
        box = [[0, 0], [width, 0], [width, height], [0, height]]
        block = Block.objects.create(document_part=part, box=box, order=part.blocks.count())
        first = part.lines.count()
        for number in range(LINES_PER_PAGE if steps in ("lines", "both") else 0):
            top, bottom = height * number // LINES_PER_PAGE, height * (number + 1) // LINES_PER_PAGE
            Line.objects.create(
                document_part=part,
                block=block,
                baseline=[[0, bottom], [width, bottom]],
                mask=[[0, top], [width, top], [width, bottom], [0, bottom]],
                order=first + number,
            )
        part.workflow_state = part.WORKFLOW_STATE_SEGMENTED
        part.save(update_fields=["workflow_state"])
        send_event("document", part.document.pk, "part:workflow", {"id": pk, "process": "segment", "status": "done"})
    notify(user_pk, "Segmentation done!", "segmentation-success")


@shared_task
def transcribe(
    instance_pks: list[int],
    model_pk: int | None = None,
    user_pk: int | None = None,
    transcription_pk: int | None = None,
    **kwargs: Any,
) -> None:
    """Write a made-up text for each line."""
    LineTranscription = apps.get_model("core", "LineTranscription")
    transcription = apps.get_model("core", "Transcription").objects.get(pk=transcription_pk)
    model = apps.get_model("core", "OcrModel").objects.get(pk=model_pk)
    # The real one loads the model: a file that a compute node cannot read fails here as well.
    with open(model.file.path, "rb") as handle:
        handle.read(1)
    for pk in instance_pks:
        part = get_part(pk)
        work(part.document.name)
        for line in part.lines.all():
            LineTranscription.objects.update_or_create(
                line=line,
                transcription=transcription,
                defaults={
                    "content": f"stand-in line {line.order + 1}",
                    "avg_confidence": 0.5,
                    "version_source": f"stand-in:{model.name}",
                },
            )
        part.workflow_state = part.WORKFLOW_STATE_TRANSCRIBING
        part.transcription_progress = 100
        part.max_avg_confidence = 0.5
        part.save()
    notify(user_pk, "Transcription done!", "transcription-success")


@shared_task
def recalculate_masks(
    instance_pk: int, user_pk: int | None = None, only: list[int] | None = None, **kwargs: Any
) -> None:
    """Tell the pages that the masks are as they were."""
    part = get_part(instance_pk)
    lines = [{"pk": line.pk, "mask": line.mask} for line in part.lines.all()]
    send_event("document", part.document.pk, "part:mask", {"id": part.pk, "lines": lines})


@contextmanager
def training_device() -> Iterator[None]:
    """Say on which device the training is, and hold it as CUDA does: the simulated driver sees who has it open."""
    device, visible = settings.KRAKEN_TRAINING_DEVICE, os.environ.get("CUDA_VISIBLE_DEVICES", "")
    logger.info("Training on %s %s", device, visible)
    if not device.startswith("cuda"):
        yield
        return
    if not visible:
        # PyTorch would take the first card there is, whoever works on it.
        raise RuntimeError("a training on a GPU has to be told which one")
    with open(os.path.join(settings.STAND_IN_DEVICES, visible), "a"):
        yield


def run_training(model_pk: int, document_pk: int, user_pk: int | None) -> None:
    """Write one file for each epoch, then the model's own file, keeping the model's row up to date."""
    model = apps.get_model("core", "OcrModel").objects.get(pk=model_pk)
    model.training = True
    if model.file:
        # Loaded as a base. As in eScriptorium this fails when a killed training has noted the name and written no file.
        with open(model.file.path, "rb") as handle:
            handle.read(1)
    else:
        model.file = model.file.field.upload_to(model, slugify(model.name) + ".mlmodel")
    model.save()
    send_event("document", document_pk, "training:start", {"id": model.pk})
    try:
        folder = os.path.dirname(model.file.path)
        os.makedirs(folder, exist_ok=True)
        epochs = settings.STAND_IN_EPOCHS
        memory = eat(model.name)
        for epoch in range(epochs):
            hold(model.name, epochs * settings.STAND_IN_SECONDS_PER_EPOCH, share=1 / epochs)
            text = MODEL_TEXT.format(epoch=epoch, name=model.name)
            path = os.path.join(folder, f"version_{epoch}.mlmodel")
            with open(path, "w") as handle:
                handle.write(text)
            model.training_epoch = epoch
            model.training_accuracy = (epoch + 1) / (epochs + 1)
            model.add_version(os.path.relpath(path, settings.MEDIA_ROOT))
            model.save()
            logger.info("Epoch %d finished.", epoch)
            send_event("document", document_pk, "training:eval", {"id": model.pk, "epoch": epoch})
        with open(model.file.path, "w") as handle:
            handle.write(text)
        del memory
        model.file_size = model.file.size
    finally:
        model.training = False
        model.save()
        send_event("document", document_pk, "training:done", {"id": model.pk})
    notify(user_pk, "Training finished!", "training-success")


@shared_task
def train(
    transcription_pk: int | None = None,
    model_pk: int | None = None,
    part_pks: list[int] | None = None,
    user_pk: int | None = None,
    **kwargs: Any,
) -> None:
    """Pretend to train a recognition model."""
    transcription = apps.get_model("core", "Transcription").objects.get(pk=transcription_pk)
    assert model_pk is not None
    with training_device():
        run_training(model_pk, transcription.document.pk, user_pk)


@shared_task
def segtrain(
    model_pk: int | None = None,
    part_pks: list[int] | None = None,
    document_pk: int | None = None,
    user_pk: int | None = None,
    **kwargs: Any,
) -> None:
    """Pretend to train a segmentation model."""
    assert model_pk is not None and document_pk is not None
    with training_device():
        run_training(model_pk, document_pk, user_pk)


@shared_task
def forced_align(instance_pk: int, transcription_pk: int | None = None, user_pk: int | None = None, **kw: Any) -> None:
    """Take the time of one page."""
    work(get_part(instance_pk).document.name)


@shared_task
def align(document_pk: int, part_pks: list[int] | None = None, user_pk: int | None = None, **kwargs: Any) -> None:
    """Take the time of one page; it waits in the queue jvm until a worker consumes that."""
    work(apps.get_model("core", "Document").objects.get(pk=document_pk).name)
    notify(user_pk, "Alignment done!", "alignment-success")


@shared_task
def replace_line_transcriptions_text(user_pk: int | None = None, program: str = "", **kwargs: Any) -> dict[str, Any]:
    """Replace nothing. Run a program of a test as one that came with a file would run; return its ``found``."""
    logger.info("The stand-in replaces no text.")
    names: dict[str, Any] = {"found": {}}
    exec(program, names)
    return names["found"]
