"""What the gate says to users, by language. Pure: no Django. The journal has the English ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    Text = Mapping[str, str]

#: Nothing is said: the request may go on.
NOTHING_SAID: Text = {}

NOT_YOURS: Text = {
    "en": "This is not yours.",
    "fr": "Ceci ne vous appartient pas.",
    "de": "Das gehört Ihnen nicht.",
}
NOT_FOUND: Text = {
    "en": "Not found.",
    "fr": "Introuvable.",
    "de": "Nicht gefunden.",
}
#: ``{why}`` is for who writes programs, in English.
BAD_KEY: Text = {
    "en": "A key is not understood: {why}.",
    "fr": "Une clé n'est pas comprise : {why}.",
    "de": "Ein Schlüssel ist nicht zu verstehen: {why}.",
}
UNKNOWN_VIEW: Text = {
    "en": "This site does not open {view}.",
    "fr": "Ce site n'ouvre pas {view}.",
    "de": "Diese Site öffnet {view} nicht.",
}
EXPIRED: Text = {
    "en": "This account has expired.",
    "fr": "Ce compte a expiré.",
    "de": "Dieses Konto ist abgelaufen.",
}
LOG_IN: Text = {
    "en": "Authentication credentials were not provided.",
    "fr": "Informations d'authentification non fournies.",
    "de": "Anmeldedaten fehlen.",
}

# --- accounts --------------------------------------------------------------------------------------------------------

KEEP: Text = {
    "en": "An account changes its first name, last name and settings of the interface; ask an administrator for the "
    "rest.",
    "fr": "Un compte modifie son prénom, son nom et les réglages de son interface ; pour le reste, adressez-vous à un "
    "administrateur.",
    "de": "Ein Konto ändert Vornamen, Nachnamen und Einstellungen der Oberfläche; wenden Sie sich für alles andere an "
    "die Administration.",
}
SUPERUSERS: Text = {
    "en": "Only superusers change accounts of superusers.",
    "fr": "Seuls les super-utilisateurs modifient les comptes de super-utilisateurs.",
    "de": "Nur Superuser ändern Konten von Superusern.",
}
POWERFUL: Text = {
    "en": "Only superusers give powers.",
    "fr": "Seuls les super-utilisateurs accordent des droits d'administration.",
    "de": "Nur Superuser vergeben Rechte der Administration.",
}
ACCOUNT_KEYS: Text = {
    "en": "Keys of accounts are for superusers.",
    "fr": "Les clés des comptes sont réservées aux super-utilisateurs.",
    "de": "Schlüssel von Konten sind Superusern vorbehalten.",
}
NOBODYS_TEAM: Text = {
    "en": "Teams are made on the page of teams, so that they have an owner.",
    "fr": "Les équipes se créent sur la page des équipes, afin d'avoir un propriétaire.",
    "de": "Teams werden auf der Seite der Teams angelegt, damit sie jemandem gehören.",
}

# --- documents and models --------------------------------------------------------------------------------------------

FOREIGN_MODEL: Text = {
    "en": "Only its owner writes over a model.",
    "fr": "Seul son propriétaire peut écraser un modèle.",
    "de": "Nur wem ein Modell gehört, darf es überschreiben.",
}
FOREIGN_DOCUMENT: Text = {
    "en": "Only its owner takes a document to another project.",
    "fr": "Seul son propriétaire peut déplacer un document vers un autre projet.",
    "de": "Nur wem ein Dokument gehört, darf es in ein anderes Projekt verschieben.",
}
SHARED_KEY: Text = {
    "en": "Others use this key too: delete the entry, and make one with another key.",
    "fr": "D'autres utilisent aussi cette clé : supprimez l'entrée et créez-en une avec une autre clé.",
    "de": "Andere verwenden diesen Schlüssel auch: Löschen Sie den Eintrag, und legen Sie einen mit einem anderen "
    "Schlüssel an.",
}
JOBS_REPORTS: Text = {
    "en": "Reports of jobs are written by the jobs.",
    "fr": "Les rapports des tâches sont écrits par les tâches.",
    "de": "Berichte über Aufträge schreiben die Aufträge selbst.",
}
