"""Exports. Only PAGE XML, with eScriptorium's arguments, names of files and habit of skipping what fails."""

import os
import zipfile
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from django.db.models import Q
from django.utils.text import slugify

from core.models import DocumentPart

SPACE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"


def points(pairs: Any) -> str:
    """Return ``x,y x,y``."""
    return " ".join(f"{x},{y}" for x, y in pairs or [])


class PageXMLExporter:
    """One archive with an XML file for each page, and its image if asked for."""

    def __init__(
        self,
        part_pks: list[int],
        region_types: list[Any],
        include_images: bool,
        include_characters: bool,
        user: Any,
        document: Any,
        report: Any,
        transcription: Any,
    ) -> None:
        self.part_pks, self.region_types, self.include_images = part_pks, region_types, include_images
        self.document, self.report, self.transcription = document, report, transcription
        stamp = datetime.now().strftime("%Y%m%d%H%M%S")
        name = slugify(document.name).replace("-", "_")[:32]
        self.filepath = os.path.join(
            user.get_document_store_path(), f"export_doc{document.pk}_{name}_pagexml_{stamp}.zip"
        )

    def render(self) -> None:
        """Write the archive."""
        # As in eScriptorium: the two words are taken out of the caller's list.
        with_orphans, undefined = "Orphan" in self.region_types, "Undefined" in self.region_types
        for word in ("Orphan", "Undefined"):
            if word in self.region_types:
                self.region_types.remove(word)
        wanted = Q(typology_id__in=self.region_types)
        if undefined:
            wanted |= Q(typology_id__isnull=True)
        with zipfile.ZipFile(self.filepath, "w") as archive:
            for part in DocumentPart.objects.filter(document=self.document, pk__in=self.part_pks):
                if self.include_images:
                    archive.write(part.image.path, part.filename)
                try:
                    page = self.page(part, wanted, with_orphans)
                except Exception as error:
                    self.report.append(f"Skipped {part.name}({part.filename}) because '{error}'.")
                else:
                    archive.writestr(os.path.splitext(part.filename)[0] + ".xml", page)
            archive.writestr("METS.xml", '<mets xmlns="http://www.loc.gov/METS/"/>\n')

    def page(self, part: Any, wanted: Q, with_orphans: bool) -> str:
        """Return the XML of a page."""
        regions = [
            f'<TextRegion id="{block.external_id}"><Coords points="{points(block.box)}"/>'
            f"{''.join(map(self.line, block.lines.all()))}</TextRegion>"
            for block in part.blocks.filter(wanted)
        ]
        orphans = part.lines.filter(block=None) if with_orphans else []
        if orphans:
            regions.append(f'<TextRegion id="eSc_dummyblock_">{"".join(map(self.line, orphans))}</TextRegion>')
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<PcGts xmlns="{SPACE}"><Page imageFilename='
            f'{quoteattr(part.filename)} imageWidth="{part.image.width}" imageHeight="{part.image.height}">'
            f"{''.join(regions)}</Page></PcGts>\n"
        )

    def line(self, line: Any) -> str:
        """Return the XML of a line."""
        text = line.transcriptions.filter(transcription=self.transcription).first()
        return (
            f'<TextLine id="{line.external_id}"><Coords points="{points(line.mask)}"/>'
            f'<Baseline points="{points(line.baseline)}"/><TextEquiv><Unicode>{escape(text.content) if text else ""}'
            f"</Unicode></TextEquiv></TextLine>"
        )


ENABLED_EXPORTERS = {"pagexml": {"class": PageXMLExporter, "label": "PAGE"}}
