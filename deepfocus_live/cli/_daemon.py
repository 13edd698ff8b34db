"""`start`, `stop`, `status`, `reload`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepfocus_live.cli._logs import logs
from deepfocus_live.cli._options import ConfigOption, ModelsOption, OutputOption
from deepfocus_live.config import load_config, writable_folder
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.ring import DaemonAddress

__all__ = ["register"]

_MOMENT_S = 1.0


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(start)
    app.command()(stop)
    app.command()(status)
    app.command()(reload)
    app.command()(logs)


def start(
    config: ConfigOption = None,
    output: OutputOption = None,
    host: Annotated[str | None, typer.Option(help="Address that the page is served at.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the page; 0 takes any.")] = None,
    models: ModelsOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once it is ready; it goes on.")
    ] = False,
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="Start it at every login, with these options: writes a systemd user unit, or a "
            "scheduled task on Windows (untested there).",
        ),
    ] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Take away what --install wrote.")
    ] = False,
    owner: Annotated[
        int | None, typer.Option("--owner", help="End with the process of this pid.", hidden=True)
    ] = None,
    prefer_port: Annotated[
        int | None,
        typer.Option("--prefer-port", help="Page's port of the daemon replaced.", hidden=True),
    ] = None,
) -> None:
    """Start the daemon and print the page's address."""
    if uninstall:
        if install:
            raise InputError("--install and --uninstall: give one of them.")
        from deepfocus_live.cli import _service

        _service.uninstall(typer.echo)
        return
    read = partial(
        load_config,
        config,
        output=_text(output),
        web__host=host,
        web__port=port,
        models=_text(models),
    )
    settings = read()
    given = {
        "--config": _text(config),
        "--output": _text(output),
        "--host": host,
        "--port": port,
        "--models": _text(models),
        "--owner": owner,
    }
    arguments = _flags(given)
    if install:
        _install(settings.output_dir, given)
        return
    if detach:
        _start_detached(arguments)
        return
    from deepfocus_live.daemon import run_daemon

    run_daemon(
        settings,
        owner_pid=owner,
        arguments=arguments,
        prefer_port=prefer_port,
        reread=None if config is None else read,
    )


def _install(output: Path, given: dict[str, Any]) -> None:
    """Have the system start such a daemon at every login."""
    from deepfocus_live.cli import _service

    # Better known now than at the next login, when nobody reads it.
    writable_folder(output)
    _service.install(_flags({**given, "--owner": None}), typer.echo)


def _flags(given: dict[str, Any]) -> tuple[str, ...]:
    """Return the command line that says what was given."""
    return tuple(
        part for key, value in given.items() if value is not None for part in (key, str(value))
    )


def _start_detached(arguments: tuple[str, ...]) -> None:
    from deepfocus_live.ring import READY_S, find_daemon, start_daemon

    first = find_daemon()
    if first is not None:
        raise InputError(
            f"a daemon is running already (pid {first.pid}), its page is at {first.page} "
            "(`deepfocus-live stop` ends it)."
        )
    address = start_daemon(arguments)
    try:
        with address.connect() as client:
            # It says where it is before it is ready.
            client.ask({"type": "status"}, timeout_s=READY_S)
    except OSError:
        raise RuntimeError(
            "the daemon ended while it started, or takes very long: `deepfocus-live logs` says why."
        ) from None
    typer.echo(f"the daemon runs (pid {address.pid}); the page is at {address.page}")


def stop(
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for acquisitions, masks and labels.")
    ] = False,
) -> None:
    """Stop the daemon: acquisitions end first, masks and labels are finished."""
    from deepfocus_live.ring import READY_S, find_daemon

    address = find_daemon()
    if address is None:
        typer.echo("no daemon is running.")
        return
    with address.connect() as client:
        answer = client.ask({"type": "stop", "now": now}, timeout_s=READY_S)
    if answer.get("acquiring") and not now:
        typer.echo("an acquisition is running; the daemon ends after it (--now: at once).")
    else:
        _wait_until_stopped(address, float(answer.get("within_s", 90)))
    while address.stamp.alive():
        time.sleep(0.05)
    typer.echo("stopped.")


def _wait_until_stopped(address: DaemonAddress, within_s: float) -> None:
    """Wait; say so where it takes a moment."""
    if address.stamp.wait(_MOMENT_S):
        return
    typer.echo(f"it finishes what it has in hand, within {within_s:.0f} s …")
    if not address.stamp.wait(within_s - _MOMENT_S):
        raise RuntimeError(
            f"the daemon (pid {address.pid}) has not ended within {within_s:.0f} s. What it "
            "acknowledged is on the disk: end that process; the next daemon makes good the rest."
        )


def reload() -> None:
    """Have the daemon read its configuration file again; say what changes, and when."""
    from deepfocus_live.ring import READY_S, find_daemon

    address = find_daemon()
    if address is None:
        raise InputError("no daemon is running: `deepfocus-live start` reads the configuration.")
    with address.connect() as client:
        answer = client.ask({"type": "reload"}, timeout_s=READY_S)
    if not answer["ok"]:
        raise InputError(f"{answer['reason']} The daemon goes on as before.")
    for change in answer["changes"]:
        typer.echo(change["text"])
    if not answer["changes"]:
        typer.echo("nothing has changed.")


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Say what the daemon does. Exit code 1 when none is running."""
    from deepfocus_live.ring import READY_S, find_daemon

    address = find_daemon()
    if address is None:
        typer.echo(json.dumps({"state": "not running"}) if as_json else "no daemon is running.")
        raise typer.Exit(1)
    with address.connect() as client:
        found = client.ask({"type": "status"}, timeout_s=READY_S)["status"]
    typer.echo(json.dumps(found, indent=1) if as_json else _in_words(found))


def _in_words(found: dict[str, Any]) -> str:
    waiting = found["waiting"]
    said = [
        f"{found['state']} · pid {found['pid']} · {found['address']}",
        f"model {found['model']} on {found['provider']}",
        f"waiting: {waiting['frames']} frames, {waiting['masks']} masks, "
        f"{waiting['slices_to_label']} slices to label",
        f"free on {found['output']}: {found['disk_free_bytes'] / 1e9:.1f} GB",
    ]
    if found["run"]:
        run = found["run"]
        expected = run["frames_expected"] or "?"
        said.append(
            f"run {run['name']}: {run['frames_durable']} of {expected} "
            f"{'stored' if run.get('pixels_stored', True) else 'seen, pixels not stored'}, "
            f"{run['frames_masked']} masked · {run['path']}"
        )
    if found.get("forecast"):
        said.append(_space_in_words(found["forecast"]))
    for name in ("camera_to_durable_ms", "camera_to_mask_ms"):
        if found[name]:
            words = name.removesuffix("_ms").replace("_", " ")
            said.append(f"{words}: median {found[name]['p50']} ms, p99 {found[name]['p99']} ms")
    said += _learning_in_words(found["learning"])
    return "\n".join([*said, *map(_warning_in_words, found["warnings"])])


def _learning_in_words(learning: dict[str, Any]) -> Iterator[str]:
    """Yield what is learnt, a line for each profile that has anything to tell."""
    trainer = learning["trainer"]
    for profile in learning["profiles"]:
        agreement = profile["agreement"]
        said = [] if agreement is None else [f"agreement {agreement:.2f}"]
        if trainer["running"] and trainer["profile"] == profile["name"]:
            progress = trainer["progress"] or {}
            said.append(f"fine-tunes: {progress.get('message') or 'begins'}")
        elif profile["outlook"]:
            said.append(profile["outlook"])
        if profile["watched"]:
            said.append(f"model {profile['watched']} is watched: {profile['watch']}")
        if not profile["agreement_series"] and not profile["decision"]:
            continue
        yield f"learning, profile {profile['name']}: {' · '.join(said)}"
        if profile["decision"]:
            yield f"last decision ({_moment(profile['decision_at'])}): {profile['decision']}"


def _warning_in_words(warning: dict[str, Any]) -> str:
    """Return what is the matter, since when, and how often and until when it came."""
    count = warning["count"]
    when = _moment(warning["first_at"])
    if count > 1:
        when = f"{count} times, {when} to {_moment(warning['last_at'])}"
    return f"warning ({when}): {warning['text']}"


def _moment(seconds: float) -> str:
    """Return the time of day, with the date where it is not today's."""
    then = datetime.fromtimestamp(seconds)
    today = then.date() == datetime.now().date()
    return then.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def _space_in_words(forecast: dict[str, Any]) -> str:
    """Return what is needed and free, and how long that lasts."""
    needed, full_in_s = forecast["bytes_needed"], forecast["full_in_s"]
    words = "" if needed is None else f"about {needed / 1e9:.1f} GB needed still, "
    words += f"{forecast['bytes_free'] / 1e9:.1f} GB free, "
    words += f"{forecast['frames_fit']} more frames fit"
    if full_in_s is not None:
        words += f" ({_duration(full_in_s)} at this rate)"
    return f"space on {forecast['folder']}: {words}"


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())
