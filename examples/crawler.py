"""A fan-out crawler over local HTML files, with a deadline for the whole crawl.

    qworker start crawler:app -c 4                      in this directory, on as many hosts as see the files
    python crawler.py ~/site/index.html --seconds 10

Each page is a task that submits the pages it links to. They all belong to the group that the first one was submitted
in: the block is left when the whole tree has ended, and when its time is up nothing of it goes on. A page that many
others link to is visited once, because its task's id is made of its path.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import time
from html.parser import HTMLParser
from pathlib import Path

from qworker import App, BoundTask, TaskExpired, current

app = App()


class Page(HTMLParser):
    """What is wanted of a page: its title, its links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title = ""
        self.links: list[str] = []
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value and "://" not in value]

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data.strip()


@app.task(retries=1, timeout=30)
def visit(path: str, index: str, crawl: str, pause: float) -> None:
    """Write a page into the index, and submit those that it links to."""
    current.sleep(pause)
    try:
        page = Page(Path(path).read_text(errors="replace"))
    except OSError:
        return  # it is gone, or not for us: no reason to stop the crawl
    for link in page.links:
        target = (Path(path).parent / link.partition("#")[0]).resolve()
        if target.suffix == ".html" and target.is_file():
            once(str(target), crawl).submit(str(target), index, crawl, pause)
    line = json.dumps({"path": path, "title": page.title, "links": len(page.links)}) + "\n"
    descriptor = os.open(index, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())  # one write, so that the lines of many tasks do not mix
    finally:
        os.close(descriptor)


def once(path: str, crawl: str) -> BoundTask[[str, str, str, float], None]:
    """Return the visit of a page in this crawl: submitted again, it is the same task."""
    return visit.options(id=f"{crawl}-{hashlib.sha256(path.encode()).hexdigest()[:32]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Crawl local HTML files.")
    parser.add_argument("start", type=Path)
    parser.add_argument("--seconds", type=float, default=60, help="the deadline of the whole crawl")
    parser.add_argument("--pause", type=float, default=0.0, help="before each page, to be polite")
    parser.add_argument("--index", type=Path, default=Path("index.jsonl"))
    given = parser.parse_args()

    start, index, crawl = str(given.start.resolve()), given.index.resolve(), secrets.token_hex(8)
    index.unlink(missing_ok=True)
    began = time.monotonic()
    try:
        with app.group(timeout=given.seconds, name="crawl") as group:
            group.submit(once(start, crawl), start, str(index), crawl, given.pause)
    except* TaskExpired:
        pass  # told below
    late = time.monotonic() - began >= given.seconds
    lines = index.read_text().splitlines() if index.exists() else []
    pages = {page["path"]: page["title"] for page in map(json.loads, lines)}
    print(f"{len(pages)} pages{', stopped at the deadline' if late else ''}")
    for path, title in sorted(pages.items())[:10]:
        print(f"  {title or 'untitled'}  {path}")


if __name__ == "__main__":
    main()
