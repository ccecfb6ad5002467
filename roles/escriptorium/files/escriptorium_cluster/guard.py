"""Looks after jobs that start again because their process was killed.

With late acknowledgement and ``reject_on_worker_lost`` a job whose process is killed goes back to its queue. A job
that needs more memory than its worker may use would therefore kill worker after worker, for ever. Redis tells only
*that* a message was delivered again, not how often, so the starts of each job are counted in the cache, and a job
that has been started too often is given up. Before a job starts again, what the killed one has left is put in order.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from escriptorium_cluster.config import IMPORT, TRAININGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

#: Prefix of the counters' names in the cache.
KEY_PREFIX = "cluster:starts:"


class StartedTooOftenError(RuntimeError):
    """A job has been started more often than allowed; it ends as failed and is not started again."""


class Counter(Protocol):
    """The two methods of Django's cache that are used here."""

    def add(self, key: str, value: int, timeout: int) -> bool:
        """Set a value unless the key exists."""

    def incr(self, key: str) -> int:
        """Add one and return the new value."""


def count_start(counter: Counter, task_id: str, retries: int, limit: int, keep: int) -> int:
    """Count one start of a job and return how many there were, without the retries that the job asked for itself.

    :param retries: how often the task has called for its own retry (they keep the job's id).
    :param limit: starts allowed.
    :param keep: seconds to keep the counter.
    :raises StartedTooOftenError: when the job has been started more than ``limit`` times.
    """
    key = KEY_PREFIX + task_id
    counter.add(key, 0, timeout=keep)
    starts = counter.incr(key) - retries
    if starts > limit:
        raise StartedTooOftenError(
            f"given up: this job's process was killed {starts - 1} times, most likely for want of memory"
        )
    return starts


def before_start(task: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Celery's hook (set on every task by ``CELERY_TASK_ANNOTATIONS``), called in the worker's child before the job.

    :raises StartedTooOftenError: the job then ends as failed, with this message in its report.
    """
    # Imported here: the settings import this module.
    from django.conf import settings
    from django.core.cache import cache

    retries = task.request.retries or 0
    try:
        starts = count_start(
            cache, task_id, retries, settings.CLUSTER_TASK_MAX_STARTS, settings.CELERY_VISIBILITY_TIMEOUT
        )
        if starts > 1:
            logger.warning("job %s (%s) starts again: its process was killed", task_id, task.name)
        if starts > 1 or retries:
            _clear_traces(task.name, kwargs)
    except StartedTooOftenError as error:
        _let_go(task.name, task_id, kwargs, str(error))
        raise
    except Exception:
        # A job must not fail because it could not be counted.
        logger.warning("could not count the start of job %s", task_id, exc_info=True)
    # Last: a job that is not begun after all must not keep other workers from it.
    _note_running(task_id)


def after_return(task: Any, status: str, retval: Any, task_id: str, *_: Any) -> None:
    """Celery's hook, called in the worker's child after the job, however it ended."""
    from escriptorium_cluster import lease

    if lease.current is not None:
        try:
            lease.current.release(task_id)
        except Exception:
            # The main process does it with its next renewal.
            logger.debug("could not note the end of job %s", task_id, exc_info=True)


def _note_running(task_id: str) -> None:
    """Note that this job runs under this worker's lease: no other worker begins it meanwhile."""
    from escriptorium_cluster import lease

    if lease.current is not None:
        try:
            lease.current.claim(task_id)
        except Exception:
            logger.warning("could not note that job %s runs", task_id, exc_info=True)


def _clear_traces(name: str, kwargs: Mapping[str, Any]) -> None:
    """Undo what a killed job has left behind and what upstream's code would stumble over when it starts again."""
    if name in TRAININGS:
        _restore_base(kwargs.get("model_pk"))
    elif name == IMPORT:
        # Upstream looks for an import that has not begun or has failed; it then goes on where it stopped.
        from django.apps import apps

        imports = apps.get_model("imports", "DocumentImport")
        imports.objects.filter(pk=kwargs.get("import_pk"), workflow_state=imports.WORKFLOW_STATE_STARTED).update(
            workflow_state=imports.WORKFLOW_STATE_CREATED
        )


def _let_go(name: str, task_id: str, kwargs: Mapping[str, Any], reason: str) -> None:
    """Free the model of a training that is given up, or end such an import: others would be refused for ever."""
    from escriptorium_cluster.cancelled import end_imports, free_model

    if name in TRAININGS:
        free_model(kwargs.get("model_pk"), task_id)
    elif name == IMPORT:
        from django.apps import apps

        imports = apps.get_model("imports", "DocumentImport")
        left = (imports.WORKFLOW_STATE_CREATED, imports.WORKFLOW_STATE_STARTED)
        end_imports(imports.objects.filter(pk=kwargs.get("import_pk"), workflow_state__in=left), reason)


def _models() -> Any:
    from django.apps import apps

    return apps.get_model("core", "OcrModel").objects


def _restore_base(model_pk: int | None) -> None:
    """Give a killed training a base that it can load.

    Upstream notes the name of a new model's file before the training, and writes the file after it: a second start
    takes the noted name for an existing base and ends at once. The newest epoch that the killed training has
    finished becomes the base, so that its work is not lost; without one the training starts from nothing again.
    """
    from django.conf import settings

    model = _models().filter(pk=model_pk).first()
    if model is None or not model.file or Path(model.file.path).exists():
        return
    media = Path(settings.MEDIA_ROOT)
    epoch = newest_epoch(model.versions, media)
    if epoch is None:
        model.file = None
    else:
        # Beside the target, then moved: nobody ever reads half a model.
        partial = Path(f"{model.file.path}.partial")
        shutil.copyfile(epoch, partial)
        partial.replace(model.file.path)
        logger.warning("the training of model %s goes on from %s", model_pk, epoch.name)
    # The epochs that follow get the same file names from the start again.
    model.versions = []
    model.save()


def newest_epoch(versions: Sequence[Mapping[str, Any]], media: Path) -> Path | None:
    """Return the file of the newest finished epoch that is there.

    :param versions: what upstream notes about each epoch once its file is written, the newest first.
    :param media: folder that the noted names are relative to.
    """
    files = (media / str(version["data"]["file"]) for version in versions)
    return next((file for file in files if file.is_file()), None)
