"""A page in headless Chromium: what it looks like at a given width, without a network."""

import html
import json
import re
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=5000",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
#: A frame as wide as the screen, for a window is at least 500 pixels wide; what is asked of it goes into the title.
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe id="frame" style="border:0;width:{width}px;height:{height}px"
srcdoc="{page}"></iframe><script>
const frame = document.getElementById("frame");
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement, wide = [];
  for (const one of page.querySelectorAll("body *"))
    if (!one.closest(".scroll, pre, svg, details") && one.getBoundingClientRect().right > root.clientWidth + 1)
      wide.push(one.tagName + " " + one.textContent.trim().slice(0, 40));
  const drawn = [...page.querySelectorAll("figure > svg")].map(one => one.getBoundingClientRect());
  document.title = JSON.stringify({{
    width: root.clientWidth, scrolls_to: root.scrollWidth, wide: wide.slice(0, 5),
    svg: drawn.map(box => [Math.round(box.width), Math.round(box.height)]),
    headings: [...page.querySelectorAll("h2")].map(one => one.textContent),
    fetched: frame.contentWindow.performance.getEntriesByType("resource").map(one => one.name),
    text: parseFloat(frame.contentWindow.getComputedStyle(page.querySelector("td") || page.body).fontSize),
  }});
}};
</script></body>"""


def find():
    """Return the browser's program, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def look(page, folder, width, height=900, *, picture=None):
    """Return what a page is like in a window of a width: its own width, boxes that stick out, figures, headings.

    Args:
      page: its text.
      folder: for the browser's own files.
      width, height: pixels.
      picture: PNG to write, too.
    """
    framed = folder / f"frame-{width}.html"
    framed.write_text(FRAME.format(page=html.escape(page, quote=True), width=width, height=height), encoding="utf-8")
    command = [find(), *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},{height}"]
    told = subprocess.run([*command, "--dump-dom", framed.as_uri()], capture_output=True, text=True, timeout=120)
    if picture:
        subprocess.run([*command, f"--screenshot={picture}", framed.as_uri()], capture_output=True, timeout=120)
    found = re.search(r"<title>(.*?)</title>", told.stdout, re.DOTALL)
    assert found, told.stderr[-2000:]
    return json.loads(html.unescape(found[1]))
