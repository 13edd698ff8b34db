"""What `start --install` gives to the system that starts the daemon at login."""

from __future__ import annotations

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from deepfocus_live import _platform
from deepfocus_live.cli._main import main
from deepfocus_live.cli._service import task_xml, unit_text

HARD = [
    "/home/Jörg Ångström/a b/",
    "100 % $HOME ${x} %h",
    "with \"quotes\" and 'others'",
    "back\\slash\\",
    "two\nlines",
    "; # $$ <&>",
    "顕微鏡",
]
"""Names of folders that somebody has."""

SPACE = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}


def test_unit_hands_every_argument_over_unchanged(tmp_path: Path) -> None:
    """Judged by systemd itself, where it is at hand, and by its rules for quotes."""
    text = unit_text([sys.executable, *HARD])
    [line] = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert _words_of(line.removeprefix("ExecStart=")) == [f":{sys.executable}", *HARD]
    keys = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert keys["Restart"] == "on-failure"
    # A wrong configuration is not tried for ever.
    assert keys["RestartPreventExitStatus"] == "2"
    assert keys["WantedBy"] == "default.target"
    if shutil.which("systemd-analyze"):
        unit = tmp_path / "deepfocus-live.service"
        unit.write_text(text, encoding="utf-8")
        judged = subprocess.run(
            ["systemd-analyze", "--user", "verify", str(unit)], capture_output=True, text=True
        )
        assert unit.name not in judged.stderr, judged.stderr


def _words_of(line: str) -> list[str]:
    """Return the words of a line, each in double quotes, as systemd reads them."""
    words, rest = [], line
    while rest:
        assert rest[0] == '"'
        word, at = "", 1
        while rest[at] != '"':
            if rest[at] == "\\":
                word += {"n": "\n"}.get(rest[at + 1], rest[at + 1])
                at += 2
            elif rest[at] == "%":
                assert rest[at + 1] == "%", "else a specifier of systemd's"
                word += "%"
                at += 2
            else:
                word += rest[at]
                at += 1
        words.append(word)
        rest = rest[at + 1 :].removeprefix(" ")
    return words


def test_task_can_be_read_back_and_never_ends_an_acquisition() -> None:
    program = r"C:\Users\Jörg & Søn\.venv\Scripts\pythonw.exe"
    folder = "D:\\Läufe <1>\\"
    written = task_xml([program, "-m", "x", "--output", folder], user=r"LAB\Jörg")
    task = ET.fromstring(written)

    def text(path: str) -> str | None:
        return task.findtext("/".join(f"t:{name}" for name in path.split("/")), None, SPACE)

    # What schtasks reads: UTF-16 that says so.
    assert written[:2] in (b"\xff\xfe", b"\xfe\xff")
    assert text("Actions/Exec/Command") == program
    assert text("Actions/Exec/Arguments") == '-m x --output "D:\\Läufe <1>\\\\"'
    assert text("Triggers/LogonTrigger/UserId") == text("Principals/Principal/UserId")
    assert text("Principals/Principal/UserId") == r"LAB\Jörg"
    assert text("Settings/ExecutionTimeLimit") == "PT0S"
    for name in ("DisallowStartIfOnBatteries", "StopIfGoingOnBatteries", "RunOnlyIfIdle"):
        assert text(f"Settings/{name}") == "false"
    assert text("Settings/IdleSettings/StopOnIdleEnd") == "false"
    assert text("Settings/MultipleInstancesPolicy") == "IgnoreNew"
    assert text("Settings/RestartOnFailure/Interval") == "PT1M"
    assert 1 <= int(text("Settings/RestartOnFailure/Count") or 0) <= 255


@pytest.mark.parametrize("windows", [False, True], ids=["systemd", "task"])
def test_install_twice_is_install_once_and_uninstall_leaves_nothing(
    windows: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if windows != _platform.WINDOWS and sys.platform != "linux":
        pytest.skip("this system's own way only")
    monkeypatch.setattr(_platform, "WINDOWS", windows)
    place = tmp_path / "own"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place))
    monkeypatch.setattr(_platform, "user_data_dir", lambda: place)
    # Neither program can be found: nothing is told to the system that runs this test.
    monkeypatch.setenv("PATH", str(tmp_path))
    output = tmp_path / "my runs"

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["deepfocus-live", "start", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    def files() -> dict[str, bytes]:
        return {str(one): one.read_bytes() for one in place.rglob("*") if one.is_file()}

    code, said = run("--install", "--output", str(output))
    assert code == 0
    program = "schtasks" if windows else "systemctl"
    assert f"there is no {program} here. Run this yourself: {program} " in said
    assert "--uninstall" in said
    assert ("not been tested on Windows" in said) == windows
    first = files()
    encoding = "utf-16" if windows else "utf-8"
    assert all(str(output) in content.decode(encoding) for content in first.values())
    assert len(first) == (1 if windows else 2), "the unit, and the link that enables it"

    code, said = run("--install", "--output", str(output))
    assert (code, files()) == (0, first)
    assert "is as it was" in said
    run("--install", "--output", str(tmp_path))
    assert files().keys() == first.keys()
    assert files() != first

    assert run("--uninstall", "--install")[0] == 2
    assert run("--uninstall")[0] == 0
    assert not [one for one in place.rglob("*") if one.is_symlink() or one.is_file()]
    code, said = run("--uninstall")
    assert code == 0
    assert "nothing to take away" in said
