"""A real Chromium without a window, which opens a page and tells what it looks like."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import missing

MEASURE = """
addEventListener("load", () => {
  const frame = document.querySelector("iframe"), inside = frame.contentDocument;
  const root = inside.documentElement, width = root.clientWidth;
  const scrolls = node => node && (inside.defaultView.getComputedStyle(node).overflowX == "auto"
    || scrolls(node.parentElement));
  const beyond = [...inside.body.querySelectorAll("*")].filter(
    node => node.getBoundingClientRect().right > width + 1 && !scrolls(node));
  const covered = [...inside.querySelectorAll(".legend li")].filter(item => {
    const a = item.getBoundingClientRect();
    return [...inside.querySelectorAll("svg")].some(svg => {
      const b = svg.getBoundingClientRect();
      return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom; });
  });
  const colour = inside.defaultView.getComputedStyle(inside.body).backgroundColor;
  document.title = JSON.stringify({
    width, scroll: root.scrollWidth, background: colour,
    beyond: beyond.map(node => node.outerHTML.slice(0, 120)),
    covered: covered.map(node => node.textContent),
    pictures: [...inside.images].map(image => [image.naturalWidth, image.clientWidth]),
    curves: [...inside.querySelectorAll("polyline")].map(
      line => line.getBoundingClientRect().width),
  });
});
"""


@dataclass(frozen=True)
class Seen:
    """A page in a browser: lengths in CSS pixels, ``errors`` of its console."""

    found: dict[str, Any]
    errors: list[str]


def chromium() -> str:
    """The browser: $CHROMIUM (set by `make test`), else on PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return binary or missing("chromium")


def opened(page: Path, width: int, folder: Path, dark: bool = False) -> Seen:
    """Open a page ``width`` pixels wide, in a frame, as windows have a least width."""
    content = html.escape(page.read_text(encoding="utf-8"))
    frame = f'<iframe srcdoc="{content}" style="width:{width}px;height:900px;border:0"></iframe>'
    outer = folder / f"outer-{width}-{dark}.html"
    outer.write_text(
        f'<!doctype html><meta charset="utf-8"><script>{MEASURE}</script>{frame}', encoding="utf-8"
    )
    done = subprocess.run(
        [
            chromium(),
            "--headless",
            "--no-sandbox",  # which needs rights that a container does not have
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--dump-dom",
            outer.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout.partition("<iframe")[0], re.S)
    assert title, f"the page was not measured: {done.stderr[-2000:]}"
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(json.loads(html.unescape(title[1])), errors)
