"""Report of space and removal of a project, with the application's own models, exporters and files.

    APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<checkout with app/> pytest tests/integration/test_space.py

Runs on the stand-in and on the real eScriptorium.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from application_bench import Bench

#: Text that trips over XML, and over a careless comparison.
TEXT = 'Ærlig & <true> \\"quoted\\"   long s'
OLD = 400 * 86400

_MAKE = """
import json, os, uuid
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.files.base import ContentFile
from core.models import *
from PIL import Image
import io

def picture(shade):
    data = io.BytesIO()
    Image.new("L", (60, 40), shade).save(data, "PNG")
    return data.getvalue()

user = get_user_model().objects.get(username="chief")
project = Project.objects.create(name=NAME, owner=user)
document = Document.objects.create(name=NAME, project=project, owner=user)
kinds = [BlockType.objects.create(name="Margin " + NAME), None]
reading = Transcription.objects.create(document=document, name="a second reading")
for number in range(PAGES):
    data = picture(number * 20 % 255)
    # Two pages with the same name of the file.
    part = DocumentPart(document=document, name=f"page {number}", original_filename=f"scan-{number // 2}.png",
                        image_file_size=len(data))
    part.image.save(f"scan-{number // 2}.png", ContentFile(data), save=False)
    part.save()
    with open(part.image.path + ".180x180_q85.jpg", "wb") as thumbnail:
        thumbnail.write(b"thumbnail")
    blocks = [Block.objects.create(document_part=part, typology=kind, box=[[0, 0], [60, 0], [60, 40]],
              external_id=f"block-{part.pk}-{place}") for place, kind in enumerate(kinds)] + [None]
    for place, block in enumerate(blocks):
        line = Line.objects.create(document_part=part, block=block, baseline=[[0, 9], [60, 9]],
                                   mask=[[0, 0], [60, 0], [60, 10]], external_id=f"line-{part.pk}-{place}")
        for transcription in document.transcriptions.all():
            LineTranscription.objects.create(line=line, transcription=transcription,
                                             content=f"{TEXT} {transcription.pk} {number} {place}")
print(json.dumps({"project": project.pk, "document": document.pk}))
"""


@pytest.fixture(scope="module")
def site(bench: Bench) -> Bench:
    bench.prepare()
    (bench.folder / "exports").mkdir()
    return bench


def make(site: Bench, name: str, pages: int = 3) -> dict[str, int]:
    made: dict[str, int] = site.shell(f"NAME, PAGES, TEXT = {name!r}, {pages}, {TEXT!r}\n" + _MAKE)
    return made


def report(site: Bench, **request: Any) -> dict[str, Any]:
    done = site.python("manage.py", "report_space", "--json", given=json.dumps(request))
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(site: Bench, **request: Any) -> subprocess.CompletedProcess[str]:
    return site.python(
        "manage.py", "reclaim_space", given=json.dumps({"exports": str(site.folder / "exports")} | request)
    )


def reclaim(site: Bench, **request: Any) -> dict[str, Any]:
    done = run(site, **request)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def removal(site: Bench, project: int, export: str, before: str = "pass") -> str:
    """Remove a project by an export, without the steps that come before, and return why that failed."""
    message: str = site.shell(
        "import json\nfrom pathlib import Path\nfrom core.models import *\n"
        "from django.db.models.signals import pre_delete\n"
        "from escriptorium_cluster.project_removal import remove\n"
        "def cut(**_): raise RuntimeError('power cut')\n"
        f"{before}\n"
        f"try:\n    remove(Project.objects.get(pk={project}), Path({export!r}))\n    answer = ''\n"
        "except RuntimeError as error:\n    answer = str(error)\n\n"
        "print(json.dumps(answer))\n"
    )
    return message


def refused(site: Bench, **request: Any) -> str:
    done = run(site, **request)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stderr


def rows(site: Bench, project: int) -> int:
    """Return the number of the project's lines and texts, and of itself."""
    count: int = site.shell(
        "import json; from core.models import *; "
        f"print(json.dumps(Project.objects.filter(pk={project}).count() "
        f"+ Line.objects.filter(document_part__document__project={project}).count() "
        f"+ LineTranscription.objects.filter(transcription__document__project={project}).count()))"
    )
    return count


def test_a_project_is_exported_verified_and_removed(site: Bench) -> None:
    name = 'Chartes: l\'été "1348"'
    made, other = make(site, name, pages=5), make(site, "Neighbour")
    media = site.folder / "media"
    named = f"{made['project']}:{name}"
    neighbour = sorted(path.name for path in (media / f"documents/{other['document']}").iterdir())
    before = rows(site, other["project"])

    dry = reclaim(site, project=named)
    assert dry["changed"] is False
    assert "5 pages, 10 regions, 15 lines, 2 transcriptions, 30 texts" in dry["lines"][0]
    assert not list((site.folder / "exports").iterdir())
    assert rows(site, made["project"]) == 46

    files = [path.stat().st_size for path in (media / f"documents/{made['document']}").iterdir()]
    gone = reclaim(site, project=named, confirm=named)
    assert gone["changed"] is True
    assert rows(site, made["project"]) == 0
    assert not (media / f"documents/{made['document']}").exists()
    assert (gone["files"], gone["bytes"]) == (len(files), sum(files)), (
        "images too, which the application removes itself"
    )
    assert len(files) == 10
    assert sorted(path.name for path in (media / f"documents/{other['document']}").iterdir()) == neighbour
    assert rows(site, other["project"]) == before

    folder = Path(gone["export"])
    assert folder.stat().st_mode & 0o777 == 0o700
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    archives = sorted(folder.glob("*.zip"))
    assert len(archives) == 4, "two pages have one name, so that there are two archives for each of two transcriptions"
    images = [entry for path in archives for entry in zipfile.ZipFile(path).namelist() if entry.endswith(".png")]
    assert len(images) == 5
    with gzip.open(folder / "rows.jsonl.gz", "rt") as stream:
        kinds = [json.loads(line)["model"] for line in stream]
    assert kinds.count("core.linetranscription") == 30
    done = site.python("manage.py", "loaddata", str(folder / "rows.jsonl.gz"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert rows(site, made["project"]) == 46, "what PAGE cannot hold is in the rows, and they can be loaded"


def test_a_project_that_changes_after_its_export_stays_and_is_exported_anew(site: Bench) -> None:
    made = make(site, "Changing")
    named = f"{made['project']}:Changing"
    first = reclaim(site, project=named, export_only=True)
    again = reclaim(site, project=named, export_only=True)
    assert (first["changed"], again["changed"]) == (True, False)
    assert first["export"] == again["export"]
    site.shell(
        "import json; from core.models import LineTranscription as T; "
        f"row = T.objects.filter(transcription__document__project={made['project']}).first(); "
        "T.objects.filter(pk=row.pk).update(content='corrected'); print(json.dumps(1))"
    )
    time.sleep(1)
    assert reclaim(site, project=named, export_only=True)["export"] != first["export"]
    # The removal itself looks once more, and one that fails half way leaves rows and images as they were.
    before = rows(site, made["project"])
    images = sorted((site.folder / f"media/documents/{made['document']}").iterdir())
    assert "it was changed after the export" in removal(site, made["project"], first["export"])
    newer = reclaim(site, project=named, export_only=True)["export"]
    assert "power cut" in removal(site, made["project"], newer, "pre_delete.connect(cut, sender=Document)")
    assert rows(site, made["project"]) == before
    assert sorted((site.folder / f"media/documents/{made['document']}").iterdir()) == images
    # An export that was damaged later does not count.
    newest = Path(reclaim(site, project=named, export_only=True)["export"])
    archive = next(newest.glob("*.zip"))
    data = bytearray(archive.read_bytes())
    data[100] ^= 1
    archive.write_bytes(data)
    time.sleep(1)
    assert reclaim(site, project=named, export_only=True)["export"] != str(newest)


def test_whatever_changes_in_a_project_is_another_content(site: Bench) -> None:
    """What an export holds: order, kinds, links and remarks too, and an image that was cropped in place."""
    made = make(site, "Whole", pages=2)
    changes = {
        "page order": "DocumentPart.objects.filter(pk=part.pk).update(order=7)",
        "remark on a page": "DocumentPart.objects.filter(pk=part.pk).update(comments='torn')",
        "kind of a region": "Block.objects.filter(document_part=part).update(typology=kind)",
        "line of a region": "Line.objects.filter(document_part=part).update(block=None)",
        "history of a text": "texts.update(versions=[{}])",
        "text that is empty": "texts.update(graphs=None); before = state(project); texts.update(graphs=[])",
        "what is allowed": "document.valid_block_types.add(kind)",
        "direction": "Document.objects.filter(pk=document.pk).update(read_direction='rtl')",
        "image": "os.truncate(part.image.path, 9)",
        "image that is lost": "os.remove(part.image.path)",
    }
    missed = site.shell(
        "import json, os\nfrom core.models import *\nfrom escriptorium_cluster.project_removal import state\n"
        f"project = Project.objects.get(pk={made['project']})\ndocument = project.documents.get()\n"
        "part, kind = document.parts.first(), BlockType.objects.create(name='Heading')\n"
        "texts = LineTranscription.objects.filter(line__document_part=part)\nmissed = []\n"
        f"for name, change in {changes!r}.items():\n"
        "    before = state(project)\n    assert before == state(project)\n    exec(change)\n"
        "    missed += [name] if state(project) == before else []\n\nprint(json.dumps(missed))\n"
    )
    assert missed == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("Line.objects.filter(document_part=part).update(mask=[['x']])", "page"),
        (
            "LineTranscription.objects.filter(line__document_part=part).update(content='form\\x0cfeed')",
            "cannot be read",
        ),
        ("os.remove(part.image.path)", "No such file"),
    ],
    ids=["line that no exporter can write", "character that XML has no place for", "image that is lost"],
)
def test_a_project_that_cannot_be_exported_whole_stays(site: Bench, damage: str, words: str) -> None:
    if site.stand_in and "mask" in damage:
        damage = damage.replace("mask=[['x']]", "mask=5")
    made = make(site, "Damaged")
    named = f"{made['project']}:Damaged"
    site.shell(
        "import json, os; from core.models import *; "
        f"part = DocumentPart.objects.filter(document={made['document']}).first(); {damage}; print(json.dumps(1))"
    )
    before = rows(site, made["project"])
    message = refused(site, project=named, confirm=named)
    assert "the export is not whole, nothing was removed" in message
    assert words in message
    assert rows(site, made["project"]) == before


def test_refusals(site: Bench) -> None:
    made = make(site, "Wanted", pages=1)
    number, named = made["project"], f"{made['project']}:Wanted"
    before = rows(site, number)
    assert "its name is 'Wanted', not 'wanted'" in refused(site, project=f"{number}:wanted")
    assert "NUMBER:NAME" in refused(site, project="Wanted")
    assert "there is none" in refused(site, project="99999:Wanted")
    assert "the confirmation says 'yes'" in refused(site, project=named, confirm="yes")
    assert "is not there" in refused(site, project=named, confirm=named, exports=str(site.folder / "nowhere"))
    assert "shows to everybody" in refused(site, project=named, confirm=named, exports=str(site.folder / "media"))
    assert "name one project" in refused(site)
    setup = (
        "import json; from django.contrib.auth import get_user_model; from core.models import *; "
        "from reporting.models import TaskReport; "
        f"project = Project.objects.get(pk={number}); document = project.documents.get(); "
    )
    site.shell(
        setup + "friend = get_user_model().objects.create(username='friend', email='f@htr.test'); "
        "project.shared_with_users.add(friend); print(json.dumps(1))"
    )
    assert "shared with friend" in refused(site, project=named, confirm=named)
    site.shell(setup + "project.shared_with_users.clear(); print(json.dumps(1))")
    site.shell(
        setup + "part = document.parts.get(); name = part.image.name; "
        "other = Project.objects.create(name='Other', owner=project.owner); "
        "home = Document.objects.create(name='Other', project=other, owner=project.owner); "
        "DocumentPart.objects.create(document=home, image=name, image_file_size=1); print(json.dumps(1))"
    )
    assert "of another project has the same image" in refused(site, project=named, confirm=named)
    site.shell(setup + "DocumentPart.objects.filter(document__name='Other').update(image='x'); print(json.dumps(1))")
    for state, words in ((0, "waits"), (1, "runs")):
        site.shell(
            setup + f"TaskReport.objects.create(user=project.owner, document=document, method='core.tasks.segment', "
            f"label='x', workflow_state={state}); print(json.dumps(1))"
        )
        assert f"job core.tasks.segment {words}" in refused(site, project=named, confirm=named)
        site.shell(setup + "TaskReport.objects.update(workflow_state=3); print(json.dumps(1))")
    site.shell(
        setup + "model = OcrModel.objects.create(name='m', job=2, file_size=0, owner=project.owner, training=True); "
        "OcrModelDocument.objects.create(document=document, ocr_model=model); print(json.dumps(1))"
    )
    assert "is being trained on it" in refused(site, project=named, confirm=named)
    assert rows(site, number) == before
    site.shell(setup + "OcrModel.objects.update(training=False); print(json.dumps(1))")
    answer = reclaim(site, project=named, confirm=named)
    assert any(":m was trained or used on it and stays" in line for line in answer["lines"])
    assert site.shell(setup.partition("project =")[0] + "print(json.dumps(OcrModel.objects.count()))") >= 1


def test_report_and_removal_of_files(site: Bench) -> None:
    made = make(site, "Counted", pages=2)
    media = site.folder / "media"
    document = made["document"]
    gone = media / "documents/99999/lost.png"
    export = media / f"users/1/export_doc{document}_counted_alto_20250101000000.zip"
    fresh = media / f"documents/{document}/upload-in-progress.png"
    for path, size in ((gone, 1000), (export, 2000), (fresh, 10)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    for path in (gone, export):
        os.utime(path, (time.time() - OLD,) * 2)
    site.shell(
        "import json, os, uuid; from django.conf import settings; from core.models import *; "
        "from django.core.files.base import ContentFile; "
        "model = OcrModel(name='Versioned', job=2, file_size=3); "
        "model.file.save('own.mlmodel', ContentFile(b'own'), save=False); model.save(); "
        "folder = os.path.dirname(model.file.name); old = folder + '/version_0.mlmodel'; "
        "open(os.path.join(settings.MEDIA_ROOT, old), 'wb').write(b'x' * 500); "
        "now = '2024-01-01T00:00:00.000000+00:00'; "
        "model.versions = [dict(revision=uuid.uuid4().hex, source='x', author='', created_at=now, updated_at=now, "
        "data=dict(file=name)) for name in (old, model.file.name)]; "
        "model.save(); OcrModel.objects.filter(pk=model.pk).update(version_updated_at='2024-01-01T00:00:00Z'); "
        f"Project.objects.filter(pk={made['project']}).update(updated_at='2020-01-01T00:00:00Z'); print(json.dumps(1))"
    )
    found = report(site)
    project = next(row for row in found["projects"] if row["pk"] == made["project"])
    assert project["pages"] == 2
    assert project["bytes"]["exports"] == 2000
    assert project["bytes"]["thumbnails"] == 18
    assert project["bytes"]["images"] > 100
    assert project["finished"] == "", "its texts were written a moment ago, whatever the date of the project says"
    names = {item["name"]: item for item in found["removable"]}
    orphan, exported = "documents/99999/lost.png", str(export.relative_to(media))
    versions = next(name for name in names if name.endswith(":Versioned"))
    assert names[orphan]["reason"] == "document 99999 is gone"
    assert names[versions]["size"] == 500
    assert not any("upload-in-progress" in name for name in names), "somebody may be writing it"

    for row in report(site, idle_days=0)["projects"]:
        assert row["finished"].startswith("no activity for"), row
    wanted = [orphan, exported, versions]
    assert "is not in the report" in refused(site, items=[*wanted, f"documents/{document}/scan-0.png"])
    assert "is not in the report" in refused(site, items=["../secret"])
    dry = reclaim(site, items=wanted)
    assert dry["changed"] is False
    assert gone.exists()
    assert "for what is there now" in refused(site, items=wanted[:2], confirm=dry["confirm"])
    answer = reclaim(site, items=wanted, confirm=dry["confirm"])
    assert answer["bytes"] == 3500
    assert not gone.exists()
    assert not export.exists()
    left = site.shell(
        "import json; from core.models import *; model = OcrModel.objects.get(name='Versioned'); "
        "print(json.dumps([model.file.size, len(model.versions), str(model.version_updated_at.year)]))"
    )
    assert left == [3, 1, "2024"], "the model's own file stays, though a version names it too"
    text = site.python("manage.py", "report_space", given="{}")
    assert f"{made['project']}:Counted" in text.stdout, text.stderr[-2000:]
