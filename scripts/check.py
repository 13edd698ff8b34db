"""Run what CI runs: style, types, layers, tests.

python scripts/check.py [--no-tests]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKS = {
    "style": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "layers": ["lint-imports"],
    "tests": ["pytest", "-q", "-n", "2", "--dist", "worksteal"],
}


def main() -> None:
    """Run every check, also after one has failed; exit with 1 if any has."""
    tools = Path(sys.executable).parent
    failed = []
    for name, command in CHECKS.items():
        if name == "tests" and "--no-tests" in sys.argv:
            continue
        print(f"== {name}: {' '.join(command)}", flush=True)
        if subprocess.run([str(tools / command[0]), *command[1:]], cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    print("all checks passed")


if __name__ == "__main__":
    main()
