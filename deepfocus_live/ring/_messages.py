"""What a client may ask of the daemon: checked at the door, trusted inside."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deepfocus_live.ring._protocol import Message, ProtocolError

__all__ = ["check_request"]

_Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_Name = Annotated[str, Field(max_length=4096)]


class _Request(BaseModel):
    # What is not known is passed over: it does no harm.
    model_config = ConfigDict(strict=True, extra="ignore")


class _BeginRun(_Request):
    spec: dict[str, Any]
    ring: _Name


class _Frames(_Request):
    slots: Annotated[
        list[Annotated[list[_Count], Field(min_length=2, max_length=2)]], Field(max_length=8192)
    ]


class _EndRun(_Request):
    run_id: _Name
    reason: _Name
    frames: _Count = 0
    spilled: _Count = 0


class _Live(_Request):
    ring: _Name
    slot: _Count
    number: _Count


class _Forecast(_Request):
    spec: dict[str, Any]


class _ChooseProfile(_Request):
    profile: _Name | None


class _OfProfile(_Request):
    profile: _Name


class _UseModel(_OfProfile):
    name: _Name


class _Stop(_Request):
    now: bool = False


_REQUESTS: dict[str, type[_Request]] = {
    "begin_run": _BeginRun,
    "choose_profile": _ChooseProfile,
    "end_run": _EndRun,
    "forecast": _Forecast,
    "frames": _Frames,
    "live": _Live,
    "live_end": _Request,
    "reload": _Request,
    "retrain": _OfProfile,
    "rollback": _OfProfile,
    "status": _Request,
    "stop": _Stop,
    "subscribe": _Request,
    "use_model": _UseModel,
}


def check_request(message: Message) -> None:
    """Refuse a message that the daemon could not act on.

    Raises
    ------
    ProtocolError
        If it is none of those that there are, or a part of it is missing, of another type, or
        out of range.
    """
    form = _REQUESTS.get(message["type"])
    if form is None:
        raise ProtocolError(f"unknown message {message['type'][:40]!r}.")
    try:
        form.model_validate(message)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(
            f"message {message['type']!r}: {where or 'the whole'}: {first['msg']}."
        ) from None
