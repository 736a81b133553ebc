"""What a browser, and a reader who cannot see, would find in a page."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects tags, outside references and text alternatives of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.alternatives: list[str] = []
        self.headings: list[int] = []
        """Levels, in order."""
        self.text: list[str] = []
        self.scripts: list[str] = []
        """What stands inside of script elements."""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag and whatever it would fetch."""
        self.tags.append(tag)
        self._inside = tag
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.headings.append(int(tag[1]))
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.alternatives += [value or "" for name, value in attrs if name == "alt"]

    def handle_data(self, data: str) -> None:
        """Keep the visible text, and scripts apart from it."""
        (self.scripts if self._inside == "script" else self.text).append(data)

    def handle_endtag(self, tag: str) -> None:
        """Leave the element."""
        self._inside = ""
