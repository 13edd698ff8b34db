"""The control channel: what microscopes' programs and commands ask for, and what is answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from deepfocus_live.daemon._clients import Clients
from deepfocus_live.daemon._intake import Client, Intake, run_of
from deepfocus_live.daemon._learning._learner import Learner
from deepfocus_live.daemon._live import LiveView
from deepfocus_live.daemon._reload import Change
from deepfocus_live.daemon._runs import OpenRuns
from deepfocus_live.daemon._space import SpaceWatch
from deepfocus_live.errors import DiskFullError, InputError
from deepfocus_live.frames import RunSpec
from deepfocus_live.ring import (
    Connection,
    MemoryRing,
    Message,
    ProtocolError,
    RingError,
    check_request,
)

__all__ = ["ControlDesk"]

log = logging.getLogger(__name__)


class ControlDesk:
    """Serves the connections of the control channel.

    Parameters
    ----------
    clients : Clients
        Who is connected is noted here.
    runs, intake, learner, space, live
        Who does what is asked for.
    status : callable
        Returns what `status --json` shows.
    reload : callable
        Reads the configuration again.
    choose_profile : callable
        Gives runs to come a profile.
    stop : callable
        Called with whether at once; returns what the asker is told.
    note : callable
        Called with (level, text, run) for log and page.

    Attributes
    ----------
    opening : int
        Runs that are being opened.
    """

    def __init__(
        self,
        clients: Clients,
        *,
        runs: OpenRuns,
        intake: Intake,
        learner: Learner,
        space: SpaceWatch,
        live: LiveView,
        status: Callable[[], dict[str, object]],
        reload: Callable[[], list[Change]],
        choose_profile: Callable[[str | None], None],
        stop: Callable[[bool], Message],
        note: Callable[[str, str, str | None], None],
    ) -> None:
        self._clients = clients
        self._runs = runs
        self._intake = intake
        self._learner = learner
        self._space = space
        self._live = live
        self._status = status
        self._reload = reload
        self._choose_profile = choose_profile
        self._stop = stop
        self._note = note
        self.opening = 0

    async def serve(self, connection: Connection) -> None:
        """Answer one connection until it ends."""
        client = Client(connection, asyncio.get_running_loop())
        self._clients.add(client)
        try:
            while True:
                message = await connection.receive()
                answer = await self._answer_or_refuse(client, message)
                if answer is not None:
                    connection.send({"type": "answer", "re": message["type"], **answer})
                    # Who asks and does not listen gets no further answers.
                    await connection.drain()
                # Who has much to say does not keep the others from being heard.
                await asyncio.sleep(0)
        finally:
            self._clients.remove(client)
            self._live.end(client)

    async def _answer_or_refuse(self, client: Client, message: Message) -> Message | None:
        try:
            check_request(message)
            return await self._answer(client, message)
        except ProtocolError as error:
            client.connection.refused(str(error))
            return {"ok": False, "reason": str(error)}
        except Exception as error:
            # Whatever it was, the others' acquisitions go on.
            log.exception("message %r of %s", message["type"], client.connection.peer)
            return {"ok": False, "reason": f"{type(error).__name__}: {error}"}

    async def _answer(self, client: Client, message: Message) -> Message | None:
        kind = message["type"]
        match kind:
            case "frames":
                self._frames_announced(client, message)
                return None
            case "begin_run":
                self.opening += 1
                try:
                    return await asyncio.to_thread(self._begin_run, client, message)
                finally:
                    self.opening -= 1
            case "end_run":
                # To find what is missing may mean to go through the whole plan.
                return await asyncio.to_thread(self._end_run, message)
            case "live":
                return await asyncio.to_thread(self._live.show, client, message)
            case "live_end":
                self._live.end(client)
                return None
            case "forecast":
                return await asyncio.to_thread(self._forecast, message)
            case "subscribe":
                client.subscribed = True
                return {"ok": True}
            case "status":
                return {"ok": True, "status": await asyncio.to_thread(self._status)}
            case "stop":
                return self._stop(bool(message.get("now")))
            case "retrain" | "use_model" | "rollback" | "reload" | "choose_profile":
                return await asyncio.to_thread(self._asked_by_hand, message)
        return {"ok": False, "reason": f"unknown message {kind!r}"}

    def _begin_run(self, client: Client, message: Message) -> Message:
        """Open a run, or go on with one after its daemon died."""
        client.ring = client.run = None
        client.begun = True
        try:
            spec = RunSpec.model_validate(message["spec"])
            ring = self._intake.open_ring(str(message["ring"]))
            _check_ring(ring, spec)
            with self._learner.run_begins():
                client.run = run = self._runs.begin(spec, ring)
        except DiskFullError as error:
            self._space.refused(spec, str(error))
            return {"ok": False, "reason": str(error), "again": True}
        except (InputError, OSError, RingError, KeyError, ValueError) as error:
            return {"ok": False, "reason": str(error)}
        except Exception as error:
            # Ours to mend: its frames are not given up for that.
            log.exception("a run could not be begun")
            return {"ok": False, "reason": f"{type(error).__name__}: {error}", "again": True}
        client.ring = ring
        space = self._space.opened(run, self._runs.all())
        return {"ok": True, "path": str(run.writer.path), "space": space}

    def _asked_by_hand(self, message: Message) -> Message:
        """Do what a person asks for; what cannot be done is answered in their words."""
        try:
            match message["type"]:
                case "retrain":
                    return {"ok": True, "text": self._learner.request(message["profile"])}
                case "use_model":
                    text = self._learner.use(message["name"], message["profile"])
                    return {"ok": True, "text": text}
                case "rollback":
                    return {"ok": True, "text": self._learner.rollback(message["profile"])}
                case "reload":
                    return {"ok": True, "changes": [_described(one) for one in self._reload()]}
                case _:
                    self._choose_profile(message["profile"])
                    return {"ok": True}
        except InputError as error:
            return {"ok": False, "reason": str(error)}

    def _forecast(self, message: Message) -> Message:
        """Say whether there is room for a run that is not begun."""
        try:
            spec = RunSpec.model_validate(message["spec"])
        except (KeyError, ValueError) as error:
            return {"ok": False, "reason": str(error)}
        forecast = self._space.plan(spec, self._runs.all())
        space = None if forecast.fits() else forecast.warning(spec.name)
        return {"ok": True, "forecast": forecast.as_json(), "space": space}

    def _frames_announced(self, client: Client, message: Message) -> None:
        ring, run = client.ring, client.run
        if not client.begun:
            raise ProtocolError("frames were announced before their run.")
        if ring is None or run is None:
            return
        for slot, number in message["slots"]:
            # What does not wait there was stored before, or never was.
            if ring.holds(slot, number):
                self._intake.store(run, ring, slot, number, client)

    def _end_run(self, message: Message) -> Message:
        run = self._runs.get(str(message.get("run_id")))
        if run is None:
            return {"ok": False, "reason": "no such run"}
        self._runs.end(run, str(message.get("reason")))
        if message.get("spilled"):
            text = f"run {run.spec.name}: {message['spilled']} frames were spilled to a disk"
            self._note("info", text, run.spec.name)
        answer: Message = {"ok": True, "frames": run.writer.frames_durable}
        if run.missed is not None:
            text = run.missed.in_words(run.spec.name)
            answer["missed"] = {"count": run.missed.count, "text": text}
        return answer


def _described(change: Change) -> dict[str, object]:
    return {"key": change.key, "text": change.in_words, "applies": change.applies}


def _check_ring(ring: MemoryRing, spec: RunSpec) -> None:
    """Refuse a ring that is another run's: its frames would be stored under a wrong name."""
    told = run_of(ring)
    if told is not None and told.run_id != spec.run_id:
        raise RingError(f"{ring.path}: carries run {told.name}, not {spec.name}.")
    if not ring.fits(spec.frame_bytes, b""):
        raise RingError(f"{ring.path}: frames of {spec.frame_bytes} bytes do not fit its slots.")
