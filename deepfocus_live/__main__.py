"""`python -m deepfocus_live`."""

from __future__ import annotations

from deepfocus_live.cli import main

if __name__ == "__main__":
    main()
