"""The `icosfl` command: what a person does with a fleet, each verb a few lines around `icosfl.fleet`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from icosfl.errors import IcosflError, NotReady, UserError
from icosfl.fleet.session import DEFAULT_INVENTORY, Session

NEW_MODEL_SECONDS = 30.0
NEW_MODEL_LOOKS = (0.5, 3.0)  # seconds between two looks at this machine, and over SSH
INTERRUPTED = 130
LEFT_OUT = "no rule asks for their columns, or a later value of the same row took their place"
NEXT = "next: icosfl status, icosfl watch, icosfl train, icosfl forecast"

InventoryOption = Annotated[
    str | None,
    typer.Option("--inventory", "-i", help=f"A file, a directory or an environment; by default {DEFAULT_INVENTORY}."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
LimitOption = Annotated[str | None, typer.Option("--limit", help="Only these hosts, as Ansible's --limit.")]

app = typer.Typer(
    name="icosfl",
    help="Turns a list of machines into a working federated-learning fleet, and keeps it working.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    context: typer.Context,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
    vault_password_file: Annotated[
        Path | None, typer.Option("--vault-password-file", help="Where the password of encrypted variables stands.")
    ] = None,
) -> None:
    from icosfl.fleet.vault import use_password_file

    use_password_file(vault_password_file)
    context.obj = Session().also(inventory, as_json)


def _session(context: typer.Context, inventory: str | None, as_json: bool) -> Session:
    session: Session = context.obj
    return session.also(inventory, as_json)


def _leave(code: int) -> NoReturn:
    raise typer.Exit(code)


@app.command()
def up(
    context: typer.Context,
    limit: LimitOption = None,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deploy the fleet and start it; a second time, change only what differs."""
    session = _session(context, inventory, as_json)
    result = session.run("site", limit=limit)
    code = session.tell(result)
    if not code:
        session.screen.print(NEXT, style="dim")
    _leave(code)


@app.command()
def down(
    context: typer.Context,
    limit: LimitOption = None,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop every service; rows, models and configuration stay."""
    session = _session(context, inventory, as_json)
    _leave(session.tell(session.run("down", limit=limit)))


@app.command()
def verify(
    context: typer.Context,
    limit: LimitOption = None,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove every hop of the data's way, one line each."""
    session = _session(context, inventory, as_json)
    _leave(session.tell(session.run("verify", limit=limit)))


@app.command()
def reset(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    limit: LimitOption = None,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop the fleet and remove all that it keeps on its hosts: rows, models, configuration."""
    session = _session(context, inventory, as_json)
    if not yes:
        typer.confirm(f"Remove all rows, models and configuration of {session.inventory}?", abort=True, err=True)
    confirmed = {"icosfl_reset_confirmed": True}
    _leave(session.tell(session.run("reset", confirmed, limit=limit, keep_logs=False)))


@app.command()
def train(  # noqa: PLR0913, PLR0917 (each option is an argument)
    context: typer.Context,
    config: Annotated[
        list[str] | None,
        typer.Option("--config", "-c", metavar="KEY=VALUE", help="Override one value of the run configuration."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the newest run, which failed or was interrupted, as it was configured."
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew: go on with no run that was interrupted, and from no model.")
    ] = False,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the global model in one federated run, and show what it is worth on every node.

    A run that was interrupted is gone on with by itself if its configuration is the wanted one.
    """
    from icosfl.fleet.everywhere import ask_all, seconds_between_looks
    from icosfl.fleet.outlook import await_new_models, summarise
    from icosfl.fleet.rounds import parse_overrides
    from icosfl.fleet.screens import fleet_screen, forecast_screen, skill_note

    session = _session(context, inventory, as_json)
    variables = _beginning(resume=resume, fresh=fresh, config=config or [])
    fleet = session.fleet()
    overrides = parse_overrides(config or [], None)
    if overrides:
        variables["icosfl_training"] = {**fleet.hosts[0].training, **overrides}
    with session.screen.status("asking every node for its model"):
        before = {each.host: each.digest for each in ask_all(fleet)}
    result = session.run("train", variables)
    if result.status != "ok":
        _leave(session.tell(result))
    with session.screen.status("waiting for every node to measure the new model"):
        every = seconds_between_looks(fleet.hosts, *NEW_MODEL_LOOKS)
        digest = next((str(told.get("digest", "")) for told in result.reports.values()), "")
        found = await_new_models(lambda: ask_all(fleet), before, NEW_MODEL_SECONDS, handed_out=digest, every=every)
    summaries = summarise(found)
    code = session.tell(result, nodes=found, summary=summaries)
    for each in found:
        session.screen.print(forecast_screen(each))
    session.screen.print(skill_note(), fleet_screen(summaries), sep="\n\n")
    _leave(code)


def _beginning(*, resume: bool, fresh: bool, config: Sequence[str]) -> dict[str, Any]:
    """How a run begins, as variables of the playbook.

    Raises:
        UserError: two options do not go together.
    """
    from icosfl.fleet.resumption import NEWEST

    if resume and fresh:
        raise UserError("--resume and --fresh exclude each other", cure="use one of them")
    if resume and config:
        raise UserError("a run that is gone on with keeps its configuration", cure="use --resume without --config")
    return {"icosfl_train_resume": NEWEST} if resume else {"icosfl_train_fresh": True} if fresh else {}


@app.command()
def forecast(
    context: typer.Context,
    host: Annotated[str | None, typer.Option("--host", help="Only this node.")] = None,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what every node forecasts, how sure it is, and whether the global model beats simple forecasts."""
    from icosfl.fleet.everywhere import ask_all
    from icosfl.fleet.screens import forecast_screen, skill_note, where_to_look

    session = _session(context, inventory, as_json)
    fleet = session.fleet()
    hosts = session.hosts(host, fleet)
    with session.screen.status("asking every node"):
        found = ask_all(fleet, hosts)
    if session.as_json:
        session.print_json({"nodes": found})
    for each in found:
        session.screen.print(forecast_screen(each))
    session.screen.print(skill_note(), where_to_look(hosts), sep="\n")
    _leave(NotReady.exit_code if any(each.problem for each in found) else 0)


@app.command()
def status(context: typer.Context, inventory: InventoryOption = None, as_json: JsonOption = False) -> None:
    """Show what really runs: every service of every host, its store and its model. Exit code 0 means all is green."""
    from icosfl.fleet.everywhere import look
    from icosfl.fleet.screens import status_screen

    session = _session(context, inventory, as_json)
    fleet = session.fleet()
    with session.screen.status("asking every host"):
        found = look(fleet)
    if session.as_json:
        session.print_json(found)
    session.screen.print(status_screen(found))
    _leave(0 if found.green else 1)


@app.command()
def watch(  # noqa: PLR0913, PLR0917 (each option is an argument)
    context: typer.Context,
    until_ready: Annotated[bool, typer.Option("--until-ready", help="End once every node can train.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", min=0, help="End after so many seconds; with --until-ready by default by what is needed."
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option("--every", min=0.1, help="Seconds between two looks; by default 1, and 10 for hosts over SSH."),
    ] = None,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch rows arrive: how many each node has, its newest values, whether it can train."""
    from icosfl.fleet.everywhere import Watch, seconds_between_looks
    from icosfl.fleet.watch import Patience, readings

    session = _session(context, inventory, as_json)
    fleet = session.fleet()
    with Watch(fleet) as nodes:
        if until_ready and timeout is None:
            timeout = nodes.patience_seconds()
        try:
            patience = Patience(every or seconds_between_looks(fleet.hosts), until_ready, timeout)
            session.follow(readings(nodes.read, patience))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED if until_ready else 0) from None


@app.command()
def doctor(context: typer.Context, inventory: InventoryOption = None, as_json: JsonOption = False) -> None:
    """Look whether this machine and every host can carry the fleet; each failure comes with its cure."""
    from icosfl.fleet.checkup import examine_fleet
    from icosfl.fleet.preflight import passed
    from icosfl.fleet.screens import doctor_screen

    session = _session(context, inventory, as_json)
    fleet = session.fleet()
    with session.screen.status("asking this machine and every host"):
        checks = examine_fleet(fleet)
    if session.as_json:
        session.print_json({"passed": passed(checks), "checks": checks})
    session.screen.print(doctor_screen(checks))
    _leave(0 if passed(checks) else 1)


@app.command()
def replay(  # noqa: PLR0913, PLR0917 (each option is an argument)
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A CSV file with a column time or time_ms and one column a metric.")],
    to: Annotated[str, typer.Option("--to", metavar="HOST", help="The node that shall get the rows.")],
    speed: Annotated[
        float, typer.Option("--speed", min=0, help="1: in true time; 60: a minute a second; 0: at once.")
    ] = 1.0,
    service: Annotated[
        str | None, typer.Option("--service", help="Send as this service.name, to go through its rule of the bridge.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="COLUMN[=METRIC]", help="Send only these columns, as these metrics."),
    ] = None,
    keep_times: Annotated[
        bool, typer.Option("--keep-times", help="Keep the recorded times; else the trace ends now.")
    ] = False,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a recorded trace to a node's bridge, down the same way as its live metrics."""
    from icosfl.collect import replay as trace
    from icosfl.config import Endpoint

    session = _session(context, inventory, as_json)
    [host] = session.hosts(to)
    if not host.is_local:
        raise UserError(f"{host.name} is on another machine", cure=f"run icosfl replay on {host.address}")
    done = trace.replay(
        file,
        Endpoint(host.listen, host.ports["otlp"]),
        host=host.name,
        speed=speed,
        service_name=service or trace.REPLAY_SERVICE,
        columns=dict(_pair(each) for each in column) if column else None,
        rebase=not keep_times,
        progress=session.counter(),
    )
    if session.as_json:
        session.print_json(done)
    session.screen.print(
        f"{done.rows} of {done.total} rows acknowledged by {host.name}, {done.stored} of {done.points} values stored"
    )
    if done.rejected:
        session.screen.print(f"{done.rejected} values were not taken: {done.reason}", style="yellow")
    if left_out := done.points - done.stored - done.rejected:
        session.screen.print(f"{left_out} values were left out: {LEFT_OUT}", style="yellow")


@app.command()
def bundle(  # noqa: PLR0913, PLR0917 (each option is an argument)
    context: typer.Context,
    verify: Annotated[
        Path | None, typer.Option("--verify", metavar="FILE", help="Check this bundle instead, every byte.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A directory; by default .state/bundles.")
    ] = None,
    python_version: Annotated[str | None, typer.Option("--python-version", help="Must be the control node's.")] = None,
    machine: Annotated[str | None, typer.Option("--machine", help="As x86_64; must be the control node's.")] = None,
    sign_key: Annotated[
        Path | None, typer.Option("--sign-key", metavar="FILE", help="Sign with this private key (Ed25519, PEM, 0600).")
    ] = None,
    make_key: Annotated[
        Path | None, typer.Option("--make-key", metavar="FILE", help="Make a private key, and print the public one.")
    ] = None,
    public_key: Annotated[
        str, typer.Option("--public-key", metavar="KEY", help="With --verify: whose signature it must bear.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Build the release bundle that bare hosts are installed from, unless it is current; or check one."""
    from icosfl.fleet import bundle as bundles
    from icosfl.fleet.bundle_signing import make_key as make_signing_key
    from icosfl.fleet.bundle_signing import public_key as public_half
    from icosfl.fleet.inventory import find_project

    session = _session(context, None, as_json)
    if make_key:
        make_signing_key(make_key)
        session.screen.print(f'icosfl_bundle_public_key: "{public_half(make_key)}"')
        if session.as_json:
            session.print_json({"public_key": public_half(make_key)})
        return
    if verify:
        manifest, path, said = bundles.verify(verify, public_key), verify, "whole"
    else:
        project = find_project(Path.cwd())
        wanted = bundles.Wanted(project, output or project / ".state/bundles", python_version, machine, sign_key)
        with session.screen.status("looking at the project") as status:
            built = bundles.ensure(wanted, status.update)
        manifest, path, said = built.manifest, built.path, "built" if built.changed else "current"
    if session.as_json:
        session.print_json({"path": path, "state": said, "manifest": manifest})
    signed = "signed" if manifest.signed else "not signed"
    session.screen.print(f"{said}: {path}, {len(manifest.files)} files, {signed}")


@app.command()
def certificate(  # noqa: PLR0913, PLR0917 (each option is an argument)
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The collector's name, by which bridges tell it from others.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The directory that gets key, certificate and ca.crt.")
    ],
    days: Annotated[
        float | None, typer.Option("--days", min=0.01, help="How long it holds; by default icosfl_certificate_days.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the files that are there.")] = False,
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a certificate for a collector on another host, with which it may send to the fleet's bridges."""
    from datetime import UTC, datetime

    from icosfl.fleet.clients import explain, issue
    from icosfl.fleet.vault import reader

    session = _session(context, inventory, as_json)
    fleet = session.fleet()
    controller = fleet.hosts[0]
    made = issue(
        name,
        output,
        directory=controller.pki_dir,
        days=days or controller.certificate_days,
        now=datetime.now(UTC),
        read=reader(fleet.project),
        replace=replace,
    )
    bridges = {host.name: host.otlp_remote for host in fleet.hosts if host.otlp_remote}
    if session.as_json:
        session.print_json({"client": made, "bridges": bridges})
    session.screen.print(explain(made, bridges), markup=False, soft_wrap=True)


@app.command()
def image(context: typer.Context, inventory: InventoryOption = None, as_json: JsonOption = False) -> None:
    """Build the image that Docker hosts run, unless it is current, and show what images take."""
    from icosfl.fleet.image_files import built
    from icosfl.fleet.screens import image_screen

    session = _session(context, inventory, as_json)
    folders = sorted({host.images_dir for host in session.fleet().hosts})
    result = session.run("image")
    images = [image for folder in folders for image in built(folder)]
    code = session.tell(result, images=images)
    session.screen.print(image_screen(images))
    _leave(code)


def _pair(text: str) -> tuple[str, str]:
    column, found, metric = text.rpartition("=")
    return (column, metric) if found else (text, text)


def main() -> None:
    """Run the command; what goes wrong is one message with its cure, and the error's exit code."""
    try:
        app()
    except IcosflError as error:
        complain = Console(stderr=True, highlight=False, soft_wrap=True)
        complain.print(Text.assemble(("icosfl: ", "bold red"), error.message))
        if error.cure:
            complain.print(Text.assemble(("cure: ", "cyan"), error.cure))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
