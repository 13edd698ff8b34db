"""What differs between Windows, macOS and Linux stands in `_platform.py` alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parents[2] / "deepfocus_live"
_CALLS = {
    "sys": {"platform", "getwindowsversion"},
    "platform": {"system", "processor", "win32_ver", "mac_ver", "freedesktop_os_release"},
    "os": {
        "name", "uname", "fork", "forkpty", "kill", "killpg", "nice", "setpriority", "getsid",
        "setsid", "getuid", "geteuid", "sched_getaffinity", "sched_setaffinity", "fsync",
        "fdatasync", "sync", "posix_fallocate", "posix_fadvise", "statvfs", "chmod", "chown",
        "umask", "link", "symlink", "mkfifo", "startfile", "rename", "replace", "O_DIRECT",
        "O_BINARY",
    },
    "signal": {
        "SIGTERM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGBREAK", "SIGCHLD",
        "SIGPIPE", "pthread_kill", "pthread_sigmask", "CTRL_C_EVENT", "CTRL_BREAK_EVENT",
    },
    "subprocess": {
        "CREATE_NEW_PROCESS_GROUP", "CREATE_NO_WINDOW", "CREATE_BREAKAWAY_FROM_JOB",
        "DETACHED_PROCESS", "BELOW_NORMAL_PRIORITY_CLASS", "IDLE_PRIORITY_CLASS", "STARTUPINFO",
    },
}  # fmt: skip
_MODULES = {"fcntl", "grp", "msvcrt", "posix", "pwd", "resource", "termios", "winreg", "_winapi"}
_ARGUMENTS = {"creationflags", "preexec_fn", "shell", "start_new_session", "startupinfo"}
_FOLDERS = ("/dev/", "/etc/", "/proc/", "/sys/", "/tmp", "/usr/", "/var/", "C:\\")


def _calls_that_differ(source: str) -> list[str]:
    """Return what of a module's code is not the same on every system."""
    tree = ast.parse(source)
    words = {
        id(statement.value)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    }
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                wrong = name in _CALLS.get(module, ())
            case ast.Import():
                wrong = any(alias.name in _MODULES for alias in node.names)
            case ast.ImportFrom(module=module, names=names):
                barred = _CALLS.get(module or "", ())
                wrong = module in _MODULES or any(alias.name in barred for alias in names)
            case ast.keyword(arg=str(name)):
                wrong = name in _ARGUMENTS
            case ast.Constant(value=str(text)):
                wrong = text.startswith(_FOLDERS) and id(node) not in words
            case ast.Call(func=ast.Name(id="hasattr"), args=[ast.Name(id=module), _]):
                wrong = module in _CALLS
            case _:
                wrong = False
        if wrong:
            found.append(ast.unparse(node))
    return found


def test_calls_that_differ_between_systems_stand_in_one_file() -> None:
    found = {
        path.relative_to(_PACKAGE).as_posix(): calls
        for path in sorted(_PACKAGE.rglob("*.py"))
        if path.name != "_platform.py"
        and (calls := _calls_that_differ(path.read_text(encoding="utf-8")))
    }
    assert found == {}
    assert _calls_that_differ((_PACKAGE / "_platform.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "line",
    [
        "if sys.platform == 'win32': pass",
        "from sys import platform",
        "import fcntl",
        "from resource import getrusage",
        "os.replace(a, b)",
        "signal.signal(signal.SIGHUP, f)",
        "subprocess.run(c, shell=True)",
        "Path('/dev/shm')",
        "hasattr(os, 'nice')",
    ],
)
def test_what_differs_is_found(line: str) -> None:
    assert len(_calls_that_differ(line)) == 1


def test_what_is_the_same_everywhere_is_not() -> None:
    same = "'''/proc says so.'''\nos.path.join(a)\nsignal.SIGINT\nsubprocess.run(c)\npath.rename(b)"
    assert _calls_that_differ(same) == []
