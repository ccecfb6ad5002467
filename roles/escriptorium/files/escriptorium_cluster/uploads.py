"""Looks at each uploaded file before any code of upstream opens it.

A handler of uploads, because all of them come through it: forms, the REST interface, whatever the address and the
method. It takes the place of the one that upstream has, and keeps each file on the disk as that one does. What is
refused is answered with 400 and the reason, in the shape of upstream's other errors.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from django.conf import settings
from django.core.exceptions import BadRequest
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.http import HttpResponse, JsonResponse
from django.utils.html import escape

from escriptorium_cluster.archive_check import ArchiveBounds, RefusedFileError
from escriptorium_cluster.upload_check import look_at

#: What is looked at, by the end of its name: upstream goes by it too.
KINDS = {".zip": "archive", ".mlmodel": "model", ".pdf": "pdf"}
#: Formats that run code when they are read (Python's pickle, also inside PyTorch's archives). No part of the
#: application has a use for them.
REFUSED = frozenset({".ckpt", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth"})


class RefusedUploadError(BadRequest):
    """An upload is refused; the message is for the user."""


class CheckedUploadHandler(TemporaryFileUploadHandler):
    """Keeps an upload in a file, if it may be one."""

    def new_file(self, *arguments: Any, **options: Any) -> None:
        """Begin a file.

        :raises RefusedUploadError: when nobody is logged in, or nobody may upload such a file.
        """
        super().new_file(*arguments, **options)
        user = getattr(self.request, "user", None)
        if user is None or not user.is_authenticated:
            raise RefusedUploadError("Log in before you upload a file.")
        suffix = PurePath(self.file_name or "").suffix.lower()
        if suffix in REFUSED:
            raise RefusedUploadError(
                f"Files of the kind {suffix} are not taken: reading one runs what it holds. Save a model as .mlmodel."
            )

    def file_complete(self, file_size: int) -> Any:
        """End a file and look at it.

        :raises RefusedUploadError: with the reason.
        """
        file = super().file_complete(file_size)
        kind = KINDS.get(PurePath(self.file_name or "").suffix.lower())
        if kind and file is not None:
            bounds = ArchiveBounds(settings.CLUSTER_ARCHIVE_MAX_FILES, settings.CLUSTER_ARCHIVE_MAX_MIB)
            # What was written last may still lie in Python.
            file.file.flush()
            try:
                look_at(kind, file.temporary_file_path(), bounds)
            except RefusedFileError as error:
                file.close()
                raise RefusedUploadError(str(error)) from error
        return file


def bad_request(request: Any, exception: Exception) -> HttpResponse:
    """Answer a request that is wrong in itself; say why where an upload was refused."""
    if not isinstance(exception, RefusedUploadError):
        from django.views.defaults import bad_request as plainly

        return plainly(request, exception)
    reason = str(exception)
    if request.path.startswith("/api/") or "application/json" in request.headers.get("Accept", ""):
        return JsonResponse({"status": "error", "error": {"non_field_errors": [reason]}}, status=400)
    page = f"<!DOCTYPE html><title>400</title><p>{escape(reason)}</p>"
    return HttpResponse(page, status=400)
