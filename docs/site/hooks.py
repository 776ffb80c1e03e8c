# SPDX-License-Identifier: Apache-2.0
"""Hooks of MkDocs: pages that are generated or live outside docs/, links between them, timing.

Pages link to each other as files of the repository do, so that they can be read there too. Here
links to pages of the site are made to fit, and those to other files become plain code.
"""

import posixpath
import re
from pathlib import Path

import wavedrom
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from hiddenfold.gen import emit, ports
from hiddenfold.gen.target import Target
from hiddenfold.sw.commands import reference

ROOT = Path(__file__).resolve().parents[2]
#: Pages that are no files in docs/: place in the site, and in the repository.
OUTSIDE = {
    "index.md": "README.md",
    "CHANGES.md": "CHANGES.md",
    "configs/README.md": "configs/README.md",
    "models/README.md": "models/README.md",
}
PLACES = {name: place for place, name in OUTSIDE.items()}
#: Of which the generated pages show ports and registers.
TARGET = "zynq-7020"
#: What a user of the package needs, module by module; all that is public where none is named.
PYTHON = {
    "hiddenfold.sw.driver.accelerator": ["Accelerator"],
    "hiddenfold.sw.driver.device": ["Device"],
    "hiddenfold.sw.driver.result": [],
    "hiddenfold.sw.driver.errors": [],
    "hiddenfold.sw.model": ["Model"],
    "hiddenfold.sw.program": ["Program"],
    "hiddenfold.gen.target": ["Target"],
    "hiddenfold.gen.compile": ["compile_model"],
    "hiddenfold.gen.emit": ["generate"],
    "hiddenfold.verif.golden.model": ["Golden"],
}
_LINK = re.compile(r"\[([^\]\n]+)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")
_TIMING = re.compile(r"^```wavedrom\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files in docs/."""
    target = Target.load(TARGET)
    texts = {place: (ROOT / name).read_text("utf-8") for place, name in OUTSIDE.items()}
    texts |= {
        "reference/commands.md": reference.markdown(),
        "reference/ports.md": ports.markdown(target),
        "reference/registers.md": emit.markdown(target),
        "reference/python.md": _python(),
    }
    for place, text in texts.items():
        files.append(File.generated(config, place, content=text))
    known = re.findall(r"[\w./-]+\.md", str(config.nav))
    more = sorted({file.src_uri for file in files.documentation_pages()} - set(known))
    if more:
        # A new page is found by readers before somebody has given it its place.
        config.nav.append({"More": more})
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw timing diagrams, and make links fit."""
    place = page.file.src_uri
    folder = posixpath.dirname(OUTSIDE.get(place, f"docs/{place}"))

    def link(match: re.Match[str]) -> str:
        label, anchor = match[1], match[3] or ""
        name = posixpath.normpath(posixpath.join(folder, match[2]))
        uri = PLACES.get(name, name.removeprefix("docs/"))
        if files.get_file_from_path(uri) is not None:
            return f"[{label}]({posixpath.relpath(uri, posixpath.dirname(place) or '.')}{anchor})"
        # MkDocs complains of what is not there.
        return f"`{name}`" if (ROOT / name).exists() else match[0]

    return _LINK.sub(link, _TIMING.sub(_draw, text))


def _draw(match: re.Match[str]) -> str:
    """A timing diagram as SVG within the page; its lines are black."""
    drawing = wavedrom.render(match[1]).tostring()
    return f'<div style="background: white; overflow-x: auto">{drawing}</div>\n'


def _python() -> str:
    lines = ["# Python", ""]
    for module, names in PYTHON.items():
        lines.append(f"::: {module}")
        lines += ["    options:", f"      members: {names}"] if names else []
        lines.append("")
    return "\n".join(lines)
