"""`start --install`: a daemon that the system starts when its user logs in.

Design Notes
------------
What is written is made by pure functions; `install` and `uninstall` write and remove it and then
ask the system's own program to look at it. Where that program is missing or refuses, as in a
session without a service manager, the file is there all the same and the user is told the commands.
A unit is enabled by a link beside it, which is all that `systemctl enable` does.
A daemon that refuses its configuration, or finds another one running, ends with exit code 2: it is
not started again.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path

from deepfocus_live import _platform
from deepfocus_live.errors import InputError

__all__ = ["daemon_command", "install", "task_xml", "uninstall", "unit_text"]

_NAME = "deepfocus-live"
_UNIT = f"{_NAME}.service"
_ABOUT = "deepfocus-live: masks and safe storage beside the microscope"
_TASK_SPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"
_PATIENCE_S = 30.0
_STOP_S = 120
"""A stop lets a run's masks be made for a minute; an acquisition may need longer than that."""

Say = Callable[[str], object]


def daemon_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a daemon of this interpreter, without a window on Windows."""
    python = Path(sys.executable).absolute()
    windowless = python.with_name("pythonw.exe")
    if _platform.WINDOWS and windowless.exists():
        python = windowless
    return [str(python), "-m", "deepfocus_live", "start", *arguments]


def unit_text(command: Sequence[str]) -> str:
    """Return a systemd user unit that runs `command`.

    Arguments may hold spaces, quotes, percent and dollar signs, line ends and any other characters.
    """
    # The colon: dollar signs are no variables.
    program = " ".join(_quoted(part) for part in (f":{command[0]}", *command[1:]))
    return f"""\
[Unit]
Description={_ABOUT}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=exec
ExecStart={program}
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2
KillMode=mixed
TimeoutStopSec={_STOP_S}

[Install]
WantedBy=default.target
"""


def _quoted(part: str) -> str:
    escaped = {"\\": r"\\", '"': r"\"", "\n": r"\n", "%": "%%"}
    return '"' + "".join(escaped.get(letter, letter) for letter in part) + '"'


def task_xml(command: Sequence[str], *, user: str) -> bytes:
    """Return a Windows scheduled task, UTF-16, that runs `command` when `user` logs in.

    It has no time limit, goes on on batteries, has the priority of an ordinary program (a task's
    usual one slows its disk down), and is tried again a minute after it failed.
    """
    ET.register_namespace("", _TASK_SPACE)
    task = _element("Task", {"version": "1.2"})
    _put(task, "RegistrationInfo/Description", _ABOUT)
    _put(task, "Triggers/LogonTrigger/Enabled", "true")
    _put(task, "Triggers/LogonTrigger/UserId", user)
    principal = _put(task, "Principals/Principal")
    principal.set("id", "Author")
    _put(principal, "UserId", user)
    _put(principal, "LogonType", "InteractiveToken")
    _put(principal, "RunLevel", "LeastPrivilege")
    for name, value in {
        "MultipleInstancesPolicy": "IgnoreNew",
        "DisallowStartIfOnBatteries": "false",
        "StopIfGoingOnBatteries": "false",
        "IdleSettings/StopOnIdleEnd": "false",
        "IdleSettings/RestartOnIdle": "false",
        "RunOnlyIfIdle": "false",
        "RunOnlyIfNetworkAvailable": "false",
        "StartWhenAvailable": "true",
        "ExecutionTimeLimit": "PT0S",
        "Priority": "5",
        "RestartOnFailure/Interval": "PT1M",
        "RestartOnFailure/Count": "255",
    }.items():
        _put(task, f"Settings/{name}", value)
    _put(task, "Actions").set("Context", "Author")
    _put(task, "Actions/Exec/Command", command[0])
    _put(task, "Actions/Exec/Arguments", subprocess.list2cmdline(command[1:]))
    written: bytes = ET.tostring(task, encoding="utf-16", xml_declaration=True)
    return written


def _element(name: str, attributes: dict[str, str] | None = None) -> ET.Element:
    return ET.Element(f"{{{_TASK_SPACE}}}{name}", attributes or {})


def _put(above: ET.Element, path: str, text: str | None = None) -> ET.Element:
    """Return the element at `path`, made where there is none, with `text`."""
    for name in path.split("/"):
        found = above.find(f"{{{_TASK_SPACE}}}{name}")
        if found is None:
            found = _element(name)
            above.append(found)
        above = found
    above.text = text
    return above


def install(arguments: Sequence[str], say: Say) -> None:
    """Have the system start a daemon with these arguments at every login of this user.

    Raises
    ------
    InputError
        If this system has no way for it, or the file cannot be written.
    """
    path = _file()
    command = daemon_command(arguments)
    if _platform.WINDOWS:
        written = task_xml(command, user=_windows_user())
        steps = [["schtasks", "/Create", "/TN", _NAME, "/XML", str(path), "/F"]]
        now = f"schtasks /Run /TN {_NAME}"
    else:
        written = unit_text(command).encode()
        steps = [["systemctl", "--user", "daemon-reload"]]
        now = f"systemctl --user start {_NAME}"
    same = path.exists() and path.read_bytes() == written
    try:
        _write(path, written)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); it is looked for there at "
            "login: make the folder writable."
        ) from None
    say(f"{path}: {'is as it was' if same else 'written'}.")
    _carry_out(steps, say)
    say(f"the daemon starts at every login from the next one on; at once: {now}")
    if _platform.WINDOWS:
        say("this has not been tested on Windows yet: look whether it runs after the next login.")
    else:
        say("to keep it running while you are logged out: loginctl enable-linger")
    say("`deepfocus-live start --uninstall` takes it away.")


def uninstall(say: Say) -> None:
    """Take away what `install` wrote; a daemon that runs goes on.

    Raises
    ------
    InputError
        If this system has no way for it.
    """
    path = _file()
    if not path.exists():
        say(f"{path}: is not there; nothing to take away.")
        return
    if _platform.WINDOWS:
        steps = [["schtasks", "/Delete", "/TN", _NAME, "/F"]]
    else:
        steps = [["systemctl", "--user", "daemon-reload"]]
        _link(path).unlink(missing_ok=True)
    path.unlink()
    say(f"{path}: removed.")
    _carry_out(steps, say)
    say("a daemon that runs goes on; `deepfocus-live stop` ends it.")


def _file() -> Path:
    if _platform.WINDOWS:
        return _platform.user_data_dir() / f"{_NAME}-task.xml"
    if _platform.MACOS:
        raise InputError(
            "--install: not made for macOS: `attach` starts the daemon when it is needed, or put "
            "`deepfocus-live start --detach` among the login items."
        )
    settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(settings) / "systemd" / "user" / _UNIT


def _windows_user() -> str:
    domain = os.environ.get("USERDOMAIN")
    return f"{domain}\\{getpass.getuser()}" if domain else getpass.getuser()


def _write(path: Path, written: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _platform.replace_file(path, written)
    if not _platform.WINDOWS:
        link = _link(path)
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path)


def _link(unit: Path) -> Path:
    """Return what makes a unit start at login."""
    return unit.parent / "default.target.wants" / unit.name


def _carry_out(steps: Sequence[Sequence[str]], say: Say) -> None:
    """Run these programs; where one fails, tell the user what is left to be run."""
    for number, step in enumerate(steps):
        try:
            subprocess.run(step, check=True, capture_output=True, timeout=_PATIENCE_S)
        except (OSError, subprocess.SubprocessError) as error:
            left = " && ".join(subprocess.list2cmdline(one) for one in steps[number:])
            say(f"{_reason(step[0], error)} Run this yourself: {left}")
            return


def _reason(program: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no {program} here."
    said = getattr(error, "stderr", None) or b""
    words = " ".join(said.decode(errors="replace").split())
    return f"{program} failed: {words or error}".rstrip(".") + "."
