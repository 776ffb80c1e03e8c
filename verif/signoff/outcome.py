# SPDX-License-Identifier: Apache-2.0
"""What a step of ``make regress`` leaves for the page."""

import json
from pathlib import Path
from typing import Any

from hiddenfold.sw.files import write_atomically


def write_outcome(path: Path | None, data: Any) -> None:
    """Write ``data`` as JSON to ``path``, in a new folder if need be; nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(data, indent=2).encode())
