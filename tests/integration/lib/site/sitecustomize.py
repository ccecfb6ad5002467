"""Loaded at each start of Python of the integration tests.

``SHORTENED``: JSON, for each module of the package the constants that have other values here: clocks that no setting
shortens. ``AT_START``: Python code that is run.
"""

import importlib
import json
import os

for _module, _constants in json.loads(os.environ.get("SHORTENED", "{}")).items():
    vars(importlib.import_module(f"escriptorium_cluster.{_module}")).update(_constants)
exec(os.environ.get("AT_START", ""))  # noqa: S102 - what a test says itself
