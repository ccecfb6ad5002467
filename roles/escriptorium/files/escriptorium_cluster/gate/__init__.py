"""The gate: who may do what is asked before upstream's views run.

eScriptorium 05d3a0d4 asks for rights only where it lists objects. What names a document, page, line, text, model, team
or account by number in an address, a query or a body is asked for here, by upstream's own rules, from one table:

- ``table``: the views that are known, and what each key of theirs names;
- ``rules``: what an entry of the table is, and how a site writes entries of its own; pure;
- ``keys``: the keys in what a request carries; pure;
- ``rights``: for each kind of key, the objects that a user may name;
- ``accounts``: what accounts and administrators may change of accounts;
- ``middleware``: asks; ``release``: names the views of a release that the table does not know.

What the table does not know is refused as soon as it carries a key: a newer release fails closed.
"""
