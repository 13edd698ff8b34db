"""The live page: what a browser sees of a run, and the hub that feeds it.

The daemon tells a `LiveHub` what happens, from any of its threads, and is never
kept waiting for a browser. `create_app` serves the page and the hub's news;
`SERVER_OPTIONS` is what uvicorn needs to be told for it.
"""

from __future__ import annotations

from deepfocus_live.web._actions import ACTIONS, Actions, Outcome
from deepfocus_live.web._app import SERVER_OPTIONS, Access, Health, create_app
from deepfocus_live.web._guard import LOOPBACK_HOSTS
from deepfocus_live.web._hub import LiveHub
from deepfocus_live.web._message import Part, pack_message, unpack_message
from deepfocus_live.web._source import (
    InFocusVolume,
    NotPossibleError,
    Progress,
    Projection,
    RunSource,
    SliceSource,
    StackViews,
    StoredSlice,
    ViewKind,
)
from deepfocus_live.web._volumes import VolumeServer

__all__ = [
    "ACTIONS",
    "LOOPBACK_HOSTS",
    "SERVER_OPTIONS",
    "Access",
    "Actions",
    "Health",
    "InFocusVolume",
    "LiveHub",
    "NotPossibleError",
    "Outcome",
    "Part",
    "Progress",
    "Projection",
    "RunSource",
    "SliceSource",
    "StackViews",
    "StoredSlice",
    "ViewKind",
    "VolumeServer",
    "create_app",
    "pack_message",
    "unpack_message",
]
