r"""One deleted document, project or model comes back from a copy of the database, and nothing else changes.

    APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<checkout with app/> \
        pytest tests/integration/test_recovery.py

Runs on the stand-in and on the real eScriptorium. The copy is a second database of the same server.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from application_bench import PASSWORD

if TYPE_CHECKING:
    import subprocess

    from application_bench import Bench

SETUP = """
import json
from django.contrib.auth import get_user_model
from django.core.files.base import ContentFile
from core.models import *
import core.models as core
from imports.models import DocumentImport
from reporting.models import TaskReport

real = hasattr(core, "ImageAnnotation")
user, _ = get_user_model().objects.get_or_create(username="worker", defaults={"email": "worker@htr.test"})
friend, _ = get_user_model().objects.get_or_create(username="friend", defaults={"email": "friend@htr.test"})

def make(name, project=None):
    project = project or Project.objects.create(name=name, owner=user)
    document = Document.objects.create(name=name, project=project, owner=user)
    document.shared_with_users.add(friend)
    kind = BlockType.objects.create(name="Margin of " + name)
    document.valid_block_types.add(kind)
    Transcription.objects.create(document=document, name="a second reading")
    model = OcrModel(name="reader of " + name, job=2, file_size=3, owner=user)
    model.file.save("reader.mlmodel", ContentFile(b"own"), save=False)
    model.save()
    OcrModelDocument.objects.create(document=document, ocr_model=model)
    TaskReport.objects.create(user=user, document=document, label="x", method="core.tasks.segment", workflow_state=3)
    DocumentImport.objects.create(document=document, name="i", import_file=f"import_src/{document.pk}/a.xml",
                                  started_by=friend, workflow_state=2)
    for number in range(2):
        part = DocumentPart(document=document, name=f"page {number}", original_filename="scan.png", image_file_size=4)
        part.image.save(f"scan-{number}.png", ContentFile(b"data"), save=False)
        part.save()
        block = Block.objects.create(document_part=part, typology=kind, box=[[0, 0], [60, 0], [60, 40]])
        for place in range(3):
            line = Line.objects.create(document_part=part, block=block, baseline=[[0, 9], [60, 9]],
                                       mask=[[0, 0], [60, 0], [60, 10]], external_id=f"line-{part.pk}-{place}")
            for transcription in document.transcriptions.all():
                LineTranscription.objects.create(line=line, transcription=transcription,
                    content=f"text {number} {place}",
                    graphs=[{"c": "a", "poly": [[1, 2], [3, 4], [5, 6]], "confidence": 0.123456789}])
    if real:
        tag = DocumentTag.objects.create(project=project, name="urgent", color="#ff0000")
        document.tags.add(tag)
        component = AnnotationComponent.objects.create(document=document, name="who")
        taxonomy = AnnotationTaxonomy.objects.create(document=document, name="Seals", marker_type=1)
        taxonomy.components.add(component)
        note = ImageAnnotation.objects.create(taxonomy=taxonomy, part=part, coordinates=[[1, 2]], comments=["c"])
        ImageAnnotationComponentValue.objects.create(component=component, annotation=note, value="the abbot")
        TextAnnotation.objects.create(taxonomy=taxonomy, part=part, start_line=line, end_line=line, start_offset=0,
                                      end_offset=2, transcription=transcription)
        key = Metadata.objects.create(name="place of " + name)
        DocumentMetadata.objects.create(document=document, key=key, value="Paris")
        part.metadata.create(key=key, value="f. 1r")
        OcrModelRight.objects.create(ocr_model=model, user=friend)
    return {"project": project.pk, "document": document.pk, "model": model.pk, "kind": kind.pk}
"""
FINGERPRINT = """
SELECT json_object_agg(t.name, (xpath('/row/c/text()', query_to_xml(format(
  'SELECT count(*) || '' '' || coalesce(md5(string_agg(r::text, '','' ORDER BY r::text)), '''') AS c FROM %I r',
  t.name), false, true, '')))[1]::text)
FROM (SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public') t
"""
#: What a deletion changes beside the rows that it takes along, and what thumbnails are noted in.
NOT_COMPARED = ("reporting_taskreport", "easy_thumbnails_source", "easy_thumbnails_thumbnail")


@pytest.fixture(scope="module")
def site(bench: Bench) -> Bench:
    bench.prepare()
    return bench


def keep(site: Bench) -> dict[str, str]:
    """Copy the database as it is now; answers what its tables hold."""
    site.database.ask(
        "postgres",
        "DROP DATABASE IF EXISTS before",
        "CREATE DATABASE before TEMPLATE escriptorium OWNER escriptorium",
    )
    return tables(site, "before")


def tables(site: Bench, database: str = "escriptorium") -> dict[str, str]:
    found: dict[str, str] = json.loads(site.database.ask(database, FINGERPRINT))
    return {name: content for name, content in found.items() if name not in NOT_COMPARED}


def do(site: Bench, code: str) -> Any:
    return site.shell(f"{SETUP}\nanswer = None\n{code}\nprint(json.dumps(answer))")


def run(site: Bench, kind: str, named: str, *, bring: bool) -> subprocess.CompletedProcess[str]:
    server = {"host": "127.0.0.1", "port": site.database.port, "name": "before", "password": PASSWORD}
    return site.python(
        "manage.py", "recover", given=json.dumps({"kind": kind, "named": named, "server": server, "bring": bring})
    )


def recover(site: Bench, kind: str, named: str, *, bring: bool = True) -> dict[str, Any]:
    done = run(site, kind, named, bring=bring)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def refused(site: Bench, kind: str, named: str) -> str:
    done = run(site, kind, named, bring=True)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stderr


def test_a_document_comes_back_with_all_its_rows_and_nothing_else(site: Bench) -> None:
    made = do(site, "make('Neighbour'); answer = make('Charters of 1348')")
    named = f"{made['document']}:Charters of 1348"
    before = keep(site)
    assert f"document {made['document']} is still there" in refused(site, "document", named)
    do(site, f"Document.objects.get(pk={made['document']}).delete()")
    deleted = tables(site)
    assert deleted != before
    assert "its name was 'Charters of 1348', not 'Charters'" in refused(
        site, "document", f"{made['document']}:Charters"
    )
    assert "there was none at that moment" in refused(site, "document", "99999:Charters")
    dry = recover(site, "document", named, bring=False)
    assert dry["changed"] is False
    assert tables(site) == deleted
    assert dry["rows"]["core.LineTranscription"] == 12
    folder = f"documents/{made['document']}"
    assert sorted(dry["files"]) == [
        f"{folder}/scan-0.png",
        f"{folder}/scan-1.png",
        f"import_src/{made['document']}/a.xml",
    ]

    answer = recover(site, "document", named)
    assert answer["changed"] is True
    # The deletion itself notes in the project that somebody worked on it: that stays.
    assert tables(site) == before | {"core_project": deleted["core_project"]}, answer["lines"]
    newer = do(site, "answer = Document.objects.create(name='newer', project=Project.objects.first(), owner=user).pk")
    assert newer > made["document"]


def test_what_was_gone_meanwhile_is_left_out_and_said(site: Bench) -> None:
    made = do(site, "answer = make('Losses')")
    named = f"{made['document']}:Losses"
    keep(site)
    do(
        site,
        f"Document.objects.get(pk={made['document']}).delete(); BlockType.objects.get(pk={made['kind']}).delete()\n"
        f"OcrModel.objects.filter(pk={made['model']}).delete()",
    )
    lines = "\n".join(recover(site, "document", named)["lines"])
    assert f"left out: 1 core.OcrModelDocument, since core.OcrModel {made['model']} is gone" in lines
    assert f"left out: 1 core.Document_valid_block_types, since core.BlockType {made['kind']} is gone" in lines
    assert "2 core.Block come back without their typology, which is gone" in lines
    assert do(
        site,
        f"answer = [Line.objects.filter(document_part__document={made['document']}).count(), "
        f"Block.objects.filter(document_part__document={made['document']}, typology=None).count()]",
    ) == [6, 2]


def test_a_project_comes_back_without_the_document_that_was_moved(site: Bench) -> None:
    made = do(
        site,
        "answer = make('Moved')\n"
        "answer['left'] = Document.objects.create(name='Left', project_id=answer['project'], owner=user).pk",
    )
    keep(site)
    do(
        site,
        f"other = Project.objects.create(name='Other', owner=user)\n"
        f"Document.objects.filter(pk={made['document']}).update(project=other, name='Moved away')\n"
        f"Line.objects.filter(document_part__document={made['document']}).first().delete()\n"
        f"Project.objects.get(pk={made['project']}).delete(); Project.objects.create(name='Moved', owner=user)",
    )
    moved = (
        f"found = Line.objects.filter(document_part__document={made['document']})\n"
        "answer = sorted(found.values_list('pk', flat=True))"
    )
    before = do(site, moved)
    assert f"core.Project {made['project']} is gone; bring that back first" in refused(
        site, "document", f"{made['left']}:Left"
    )
    lines = "\n".join(recover(site, "project", f"{made['project']}:Moved")["lines"])
    assert "another project has 'moved' today" in lines
    assert "1 core.Document are there already and stay as they are" in lines
    assert do(site, moved) == before, "a line that its users have deleted since stays so"
    assert do(
        site,
        f"left, moved = (Document.objects.get(pk=key) for key in ({made['left']}, {made['document']}))\n"
        "answer = [left.project_id, moved.name]",
    ) == [made["project"], "Moved away"]


def test_a_model_comes_back_with_the_files_of_its_versions(site: Bench) -> None:
    made = do(
        site,
        "answer = make('Model')\n"
        "model = OcrModel.objects.get(pk=answer['model']); model.training = True\n"
        "model.versions = [{'revision': 'a' * 32, 'source': 'x', 'author': '', 'created_at': '', 'updated_at': '', "
        "'data': {'file': 'models/x/version_0.mlmodel'}}]\n"
        "model.save(); answer['file'] = model.file.name",
    )
    named = f"{made['model']}:reader of Model"
    keep(site)
    do(site, f"OcrModel.objects.get(pk={made['model']}).delete()")
    answer = recover(site, "model", named)
    assert answer["files"] == [made["file"], "models/x/version_0.mlmodel"]
    assert do(
        site,
        f"model = OcrModel.objects.get(pk={made['model']}); answer = [model.training, model.documents.count()]",
    ) == [False, 1]


def test_refusals_leave_the_database_as_it_is(site: Bench) -> None:
    made = do(site, "answer = make('Refused')")
    named = f"{made['document']}:Refused"
    keep(site)
    do(site, f"Document.objects.get(pk={made['document']}).delete()")
    site.database.ask(
        "before", "INSERT INTO django_migrations (app, name, applied) VALUES ('core', '9999_future', now())"
    )
    assert "another release of the application" in refused(site, "document", named)
    site.database.ask("before", "DELETE FROM django_migrations WHERE name = '9999_future'")
    # A number that another row has got: only a database that was taken back gives it twice.
    number = site.database.ask(
        "before", f"SELECT min(id) FROM core_transcription WHERE document_id = {made['document']}"
    ).strip()
    do(site, f"Transcription.objects.create(pk={number}, document=Document.objects.first(), name='another')")
    deleted = tables(site)
    assert f"such as core.Transcription {number}" in refused(site, "document", named)
    do(
        site,
        f"Transcription.objects.filter(pk={number}).delete()",
    )
    do(site, "get_user_model().objects.filter(username='worker').delete()")
    deleted = tables(site)
    assert "its owner, worker, is gone" in refused(site, "document", named)
    assert tables(site) == deleted
