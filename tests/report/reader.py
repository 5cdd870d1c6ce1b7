"""Reads a page as a browser would parse it, and is strict about it."""

import json
from html.parser import HTMLParser

EMPTY = {"meta", "link", "input", "br", "path", "rect", "polyline"}  # those of SVG close themselves


class Reader(HTMLParser):
    """Tags that open and close in turn, what they say, the attributes seen, and the blocks of data."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: list = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag}: an attribute twice"
        self.seen.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"{tag} was not open"
        last = self.open.pop()
        assert last == tag, f"{last} is closed by {tag}"

    def handle_data(self, text):
        if self.open and self.open[-1] == "script":
            kind = next(attributes for tag, attributes in reversed(self.seen) if tag == "script").get("type")
            (self.data.append(json.loads(text)) if kind == "application/json" else self.scripts.append(text))
        elif not self.open or self.open[-1] != "style":
            self.texts.append(text)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.seen if attributes.get(name)]
