"""MkDocs hook: pages for the Markdown files outside docs/, and links that work in the site.

README.md and the other files are read by people who browse the repository, so their links name
files of the repository. In the site, a link to a file that is a page becomes a link to that page;
a link to any other file of the repository becomes the file's path.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]]*)\]\(([^()\s:#]+)(#[^()\s]*)?\)")
CODE_BLOCK = re.compile(r"(^```.*?^```[^\n]*$)", flags=re.MULTILINE | re.DOTALL)


def page_sources() -> dict[str, str]:
    """Return page of the site → file of the repository, for the files outside docs/."""
    pages = {
        "index.md": "README.md",
        "contributing.md": "CONTRIBUTING.md",
        "changelog.md": "CHANGELOG.md",
    }
    for readme in sorted((*ROOT.glob("shared/*/README.md"), *ROOT.glob("packages/*/README.md"))):
        pages[f"packages/{readme.parent.name}.md"] = readme.relative_to(ROOT).as_posix()
    return pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose sources are outside docs/."""
    for page, source in page_sources().items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Rebuild with `mkdocs serve` if one of these files changes."""
    config.watch += [str(ROOT / source) for source in page_sources().values()]
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt the relative links of a page, outside its code blocks."""
    here = page.file.src_uri
    source = page_sources().get(here, f"docs/{here}")
    pages = {source: page for page, source in page_sources().items()}

    def adapt(link: re.Match[str]) -> str:
        text, target, heading = link[1], link[2], link[3] or ""
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        to = pages.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if to is not None:
            return f"[{text}]({posixpath.relpath(to, posixpath.dirname(here))}{heading})"
        if not (ROOT / file).exists():
            return link[0]  # MkDocs reports it
        return f"`{file}`" if text.strip("`") == file else f"{text} (`{file}`)"

    parts = CODE_BLOCK.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(adapt, part) for part in parts)
