"""Run what CI runs: style, types, layers, doctests, docs, tests.

python scripts/check.py [--no-tests] [--coverage]
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
    "doctests": ["pytest", "-q", "--doctest-modules", "deepfocus_live"],
    "docs": ["sphinx-build", "-q", "-W", "--keep-going", "docs", "site"],
    "tests": ["pytest", "-q", "-n", "2", "--dist", "worksteal"],
}


def main() -> None:
    """Run every check, also after one has failed; exit with 1 if any has."""
    tools = Path(sys.executable).parent
    if "--coverage" in sys.argv:
        # Half as slow again; of the processes that tests start, what those run counts, too.
        CHECKS["tests"] += ["--cov", "--cov-report=term:skip-covered"]
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
