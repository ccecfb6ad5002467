"""Run the program `media-backup` with other folders than those of a host: ``run_media_backup.py FOLDERS ARGUMENT...``.

FOLDERS is JSON: names of the program's constants, and what takes their place. Beside this file lies a copy of the
program.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

sys.path.insert(0, str(HERE))
from backup_programs.media_backup import (  # type: ignore[import-not-found]  # noqa: E402 - found by the path above
    main,
)

given = json.loads(sys.argv.pop(1))
for module in list(sys.modules.values()):
    if str(getattr(module, "__file__", "")).startswith(f"{HERE}/"):
        for name, value in given.items():
            if hasattr(module, name):
                setattr(module, name, Path(value) if isinstance(value, str) else value)
sys.exit(main())
