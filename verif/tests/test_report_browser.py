# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser: at the width of a desk and of a phone, in light and in dark.

Skipped where there is no Chromium on the PATH (`apt-get install chromium`).
"""

import html
import json
import re
import shutil
import subprocess

import pytest

from hiddenfold.sw.cli import main

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
SECONDS = 120
WIDTHS = {"desk": 1280, "phone": 390}

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH")

# A frame has the width of a phone, which a window cannot have; media queries see the frame's.
FRAME = """<!DOCTYPE html><html><body>
<iframe id="page" width="{width}" height="4000" style="border:0" srcdoc="{page}"></iframe>
<pre id="found"></pre><script>{script}</script></body></html>"""

# Contrast as defined in WCAG 2.2, "contrast ratio" and "relative luminance".
SCRIPT = """
const errors = [];
window.onerror = message => errors.push(message);
function channels(colour) {
  const numbers = colour.match(/[0-9.]+/g).map(Number);
  return numbers.length < 4 ? [...numbers, 1] : numbers;
}
function luminance(rgb) {
  const [r, g, b] = rgb.slice(0, 3).map(value => {
    value /= 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function look() {
  const view = document.getElementById("page").contentWindow, page = view.document;
  const texts = [], outside = [];
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    const box = element.getBoundingClientRect();
    if (!text || !box.width || ["STYLE", "TITLE", "title"].includes(element.tagName)) continue;
    const svg = element.closest("svg"), style = view.getComputedStyle(element);
    let behind = null;
    for (let up = element; up && !behind; up = up.parentElement) {
      const colour = channels(view.getComputedStyle(up).backgroundColor);
      if (colour[3] === 1) behind = colour;
    }
    const front = channels(svg ? style.fill : style.color);
    const lights = [front, behind ?? [255, 255, 255]].map(luminance);
    texts.push({text, contrast: (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05)});
    const frame = (svg ?? page.documentElement).getBoundingClientRect();
    if (!element.closest(".scroll") && (box.left < frame.left - 1 || box.right > frame.right + 1))
      outside.push(text);
  }
  return {
    texts, outside, errors,
    width: page.documentElement.scrollWidth,
    background: view.getComputedStyle(page.body).backgroundColor,
    pictures: [...page.images].map(image => image.complete && image.naturalWidth),
    loaded: view.performance.getEntriesByType("resource").map(entry => entry.name)
      .filter(name => !name.startsWith("data:")),
  };
}
window.onload = () => document.getElementById("found").textContent = JSON.stringify(look());
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert main(["report", "--target", "zynq-7020", "-o", str(folder)]) == 0
    return (folder / "index.html").read_text()


def look(page: str, folder, width: int, dark: bool) -> dict:
    """What the browser makes of `page` in a frame of `width` pixels."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(page), script=SCRIPT))
    result = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={folder / 'profile'}", "--window-size=1400,4200"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    found = re.search(r'<pre id="found">(.+?)</pre>', result.stdout, re.S)
    assert found, result.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_report_can_be_read(page, tmp_path, width, dark):
    found = look(page, tmp_path, width, dark)
    assert found["errors"] == [] and found["loaded"] == []
    assert found["width"] <= width and found["outside"] == []
    assert len(found["pictures"]) >= 4 and all(found["pictures"])
    assert len(found["texts"]) > 100
    assert [text for text in found["texts"] if text["contrast"] < 4.5] == []
    (red, *_) = map(int, re.findall(r"\d+", found["background"]))
    assert (red < 64) == dark


def test_a_page_that_is_wrong_is_seen(tmp_path):
    wrong = (
        '<body style="background:#fff"><p style="color:#999">pale</p>'
        '<div style="width:600px">wide</div>'
        '<img src="data:image/png;base64,AAAA"><img src="http://127.0.0.1:9/none.png"></body>'
    )
    found = look(wrong, tmp_path, WIDTHS["phone"], False)
    assert found["width"] > WIDTHS["phone"] and found["outside"] == ["wide"]
    assert [text["text"] for text in found["texts"] if text["contrast"] < 4.5] == ["pale"]
    assert not any(found["pictures"]) and found["loaded"] == ["http://127.0.0.1:9/none.png"]
