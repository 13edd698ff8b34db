"""The command line is spelled as the plan promises, and helps without loading anything heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from deepfocus_live import __version__
from deepfocus_live.cli._main import app, main

PROMISED: dict[str, set[str]] = {
    "start": {
        "--config",
        "--output",
        "--host",
        "--port",
        "--detach",
        "--models",
        "--install",
        "--uninstall",
    },
    "stop": set(),
    "status": {"--json"},
    "reload": set(),
    "logs": {"--lines", "--follow", "--level"},
    "acquire": {
        "--mm-config",
        "--sequence",
        "--output",
        "--dry-run",
        "--ignore-space",
        "--profile",
    },
    "setup": {"--mm-config", "--profile", "--config", "--output", "--slices", "--yes"},
    "demo": {"--stacks", "--headless", "--output", "--exposure", "--learning"},
    "label": {
        "-o",
        "--preset",
        "--measure",
        "--window-um",
        "--numerical-aperture",
        "--immersion-index",
        "--wavelength-nm",
        "--dark-offset",
        "--flat-field",
        "--projection",
    },
    "rank": {"--json", "--plot"},
    "segment": {"-o", "--model", "--models"},
    "compare": {
        "--label",
        "--truth-label",
        "--truth2-label",
        "--tolerance",
        "--z-step-um",
        "--csv",
        "--json",
        "--figure",
    },
    "correct": {"--image", "--t", "--channel", "--slices", "--reviewed", "--replace"},
    "retrain": {"--profile", "--from", "--minutes", "--activate", "--models"},
    "models list": {"--models", "--profile", "--json"},
    "models show": {"--models", "--json"},
    "models use": {"--models"},
    "models rollback": {"--models"},
    "models import": {"--models", "--name"},
    "models export": {"--models", "-o", "--onnx", "--bioimageio", "--overwrite"},
    "recover": {"--dry-run", "--models", "--config"},
    "verify": {"--json"},
    "export": {"--what", "--format", "--overwrite"},
    "doctor": {"--json"},
    "bench": {"--json"},
}
"""Commands and options of the plan: promises to users."""

TO_COME: set[str] = set()
"""What no issue has asked for yet; whoever builds it takes it out here."""

HEAVY = ("torch", "numba", "onnxruntime", "zarr", "pymmcore_plus", "tifffile")


def commands(group: Any = None, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command there is by its words, as `models list`."""
    found: Any = group or typer.main.get_command(app)
    for name, command in found.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} ")
        else:
            yield f"{above}{name}", command


EXISTING = dict(commands())


def options(command: Any) -> set[str]:
    """Return every spelling of a command's options that help shows."""
    return {
        spelling
        for parameter in command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False)
        for spelling in parameter.opts
    }


def run(
    *arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run a command line here; return exit code, stdout and stderr."""
    # Wide and without colours, so that nothing is wrapped or cut.
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "argv", ["deepfocus-live", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_every_command_is_promised_or_to_come() -> None:
    assert EXISTING.keys() <= PROMISED.keys()
    assert PROMISED.keys() - EXISTING.keys() == {name for name in TO_COME if "--" not in name}


@pytest.mark.parametrize("name", EXISTING)
def test_options_are_spelled_as_promised(name: str) -> None:
    missing = PROMISED[name] - options(EXISTING[name])
    assert missing == {
        entry.removeprefix(f"{name} ") for entry in TO_COME if entry.startswith(f"{name} --")
    }


@pytest.mark.parametrize("name", EXISTING)
def test_help_of_every_command_names_all_its_options(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(*name.split(), "--help", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, err) == (0, "")
    assert f"Usage: deepfocus-live {name}" in out
    assert {option for option in options(EXISTING[name]) if option not in out} == set()


@pytest.mark.parametrize("name", EXISTING)
def test_every_option_is_explained(name: str) -> None:
    unexplained = [
        parameter.opts[0]
        for parameter in EXISTING[name].params
        if parameter.param_type_name == "option" and not parameter.help
    ]
    assert unexplained == []


def test_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run("--help", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert {name.split()[0] for name in EXISTING if name.split()[0] not in out} == set()


@pytest.mark.parametrize("words", [(), ("models",)], ids=["program", "family"])
def test_no_command_gets_the_help_and_counts_as_bad_input(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "Usage: " in out
    assert len(err.splitlines()) == 1


def test_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run("--version", monkeypatch=monkeypatch, capsys=capsys)
    assert said == (0, f"deepfocus-live {__version__}\n", "")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from deepfocus_live.cli import main\n"
        "sys.argv = ['deepfocus-live', 'segment', '--help']\n"
        "try:\n    main()\n"
        f"finally:\n    print('loaded:', [n for n in {HEAVY} if n in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"
