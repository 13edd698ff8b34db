"""Write docs/configuration.md and docs/commands.md from what the program itself says.

python scripts/make_reference.py [--check]

With --check nothing is written, and the exit code is 1 where a file is not what would be written.
"""

from __future__ import annotations

import html
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DEFAULTS = ROOT / "configs" / "default.yaml"
MADE = "<!-- Made by scripts/make_reference.py: change configs/default.yaml or the command. -->"


def configuration() -> str:
    """Return the reference of every key of the configuration."""
    from deepfocus_live.config import Config

    schema = Config.model_json_schema()
    comments = _comments(DEFAULTS.read_text(encoding="utf-8").splitlines())
    lines = [
        "# Configuration",
        "",
        MADE,
        "",
        "A YAML file, given to `deepfocus-live start --config FILE` or `attach(core, "
        'config="FILE")`. What it leaves out has the default. `configs/default.yaml` has every '
        "key with its default; a key that does not exist is an error that names the nearest one.",
        "",
        "## Folders and interpreter",
        "",
    ]
    section = ""
    for key, described in _keys(schema, schema):
        above = key.rpartition(".")[0]
        if above != section:
            section = above
            lines += [f"## `{above}`", "", *_paragraph(comments.get(above))]
        default = _shown(described.get("default"))
        lines += [f"### `{key}`", "", f"{_allowed(described)}; default `{default}`.", ""]
        lines += [*_paragraph(comments.get(key))]
    return "\n".join(lines).rstrip() + "\n"


def _keys(
    schema: dict[str, Any], root: dict[str, Any], above: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every key, those of a section behind those beside the sections."""
    below = []
    for name, described in schema["properties"].items():
        key = f"{above}.{name}" if above else name
        inner, values = described.get("$ref"), described.get("additionalProperties")
        if isinstance(values, dict):
            inner, key = values["$ref"], f"{key}.NAME"
        if inner is None:
            yield key, described
        else:
            below.append((root["$defs"][inner.rpartition("/")[2]], key))
    for section, key in below:
        yield from _keys(section, root, key)


def _comments(lines: list[str]) -> dict[str, list[str]]:
    """Return the comment above every key of the default file, by dotted key."""
    found: dict[str, list[str]] = {}
    path: list[str] = []
    comment: list[str] = []
    for line in lines:
        text = line.strip()
        if text.startswith("#"):
            comment.append(text.lstrip("#")[1:])
        elif not text:
            comment = []
        else:
            depth = (len(line) - len(line.lstrip())) // 2
            path[depth:] = [text.partition(":")[0]]
            # The names of profiles are the user's own.
            named = ["profiles", "NAME", *path[2:]] if path[1:2] == ["default"] else path
            found[".".join(named)] = comment
            comment = []
    found["profiles.NAME"] = [*found.get("profiles", []), *found.get("profiles.NAME", [])]
    return found


def _paragraph(comment: list[str] | None) -> list[str]:
    """Return a comment as Markdown: its words and lists of `value: meaning` as they stand."""
    if not comment:
        return []
    lines = [f"- {line.strip()}" if line.startswith("  ") else line for line in comment]
    parted: list[str] = []
    for line in lines:
        if line.startswith("- ") and parted and not parted[-1].startswith("- "):
            parted.append("")
        elif parted and parted[-1].startswith("- ") and not line.startswith("- "):
            parted.append("")
        parted.append(line)
    return [*parted, ""]


def _allowed(described: dict[str, Any]) -> str:
    """Return in words what a key may be."""
    if "anyOf" in described:
        return " or ".join(_allowed(one) for one in described["anyOf"])
    if "enum" in described:
        return ", ".join(f"`{value}`" for value in described["enum"])
    kind = described.get("type")
    if kind == "null":
        return "`null`"
    if kind == "boolean":
        return "`true` or `false`"
    if kind == "array":
        return f"list of {_allowed(described['items'])}s"
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _limits(described)
    return "path" if described.get("format") == "path" else "text"


def _limits(described: dict[str, Any]) -> str:
    said = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    words = [f"{word} {described[key]:g}" for key, word in said.items() if key in described]
    return f" ({', '.join(words)})" if words else ""


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def commands() -> str:
    """Return the reference of every command."""
    app = ROOT / "deepfocus_live" / "cli" / "_main.py"
    made = subprocess.run(
        [sys.executable, "-m", "typer", str(app), "utils", "docs", "--name", "deepfocus-live"],
        capture_output=True,
        check=True,
        encoding="utf-8",
        cwd=ROOT,
    )
    _, _, rest = html.unescape(made.stdout).partition("\n")
    return f"# Commands\n\n{MADE}\n{rest.rstrip()}\n"


def main() -> None:
    """Write the files, or say which differ."""
    differing = []
    for name, made in (("configuration.md", configuration()), ("commands.md", commands())):
        path = DOCS / name
        if "--check" not in sys.argv:
            path.write_text(made, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != made:
            differing.append(name)
    if differing:
        sys.exit(f"not up to date: {', '.join(differing)}; run scripts/make_reference.py")


if __name__ == "__main__":
    main()
