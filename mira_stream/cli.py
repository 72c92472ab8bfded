"""The command line: `mira-stream <command>`. Data goes to stdout, logs and progress to stderr.

Exit codes: 0 done; 1 what was asked found a problem (lost or doubled rows, a failed check, a stopped pool); 2 refused,
misused or could not be done.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import msgspec
import typer
import uvloop

from mira_stream import __version__
from mira_stream.cli_dead_letters import app as dead_letters_app
from mira_stream.core.errors import MiraStreamError, Refusal

if TYPE_CHECKING:
    from mira_stream.sim.settings import SimSettings

T = TypeVar("T")
EXIT_FOUND = 1
EXIT_REFUSED = 2

app = typer.Typer(
    name="mira-stream",
    help="Score agent traces in a live data lake with MIRA scorers on vLLM, exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
anchors_app = typer.Typer(help="Rubric anchors.", no_args_is_help=True)
app.add_typer(anchors_app, name="anchors")
app.add_typer(dead_letters_app, name="dead-letters")

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The TOML configuration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text for people.")]


def main() -> None:
    """Run the command line; every error of operation is a message for a person, never a traceback."""
    try:
        app()
    except Refusal as error:
        _refuse(str(error), error.hint)
    except BaseExceptionGroup as group:
        _refuse_group(group)
    except MiraStreamError as error:
        _refuse(str(error), "")


def _refuse(message: str, hint: str) -> NoReturn:
    print(f"mira-stream: {message}", file=sys.stderr)  # noqa: T201 - the command line's own voice
    if hint:
        print(f"  → {hint}", file=sys.stderr)  # noqa: T201
    sys.exit(EXIT_REFUSED)


def _refuse_group(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """The first operating error of a task group; anything else in it is a bug and shows its traceback."""
    operating, bugs = group.split(MiraStreamError)
    if bugs is not None or operating is None:
        raise group
    error: BaseException = operating
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    _refuse(str(error), error.hint if isinstance(error, Refusal) else "")


def _run_async(work: Callable[[], Awaitable[T]]) -> T:
    async def started() -> T:
        return await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(started())


def _say(text: str) -> None:
    typer.echo(text)


def _version(wanted: bool) -> None:
    if wanted:
        _say(f"mira-stream {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version  # handled by its callback


@app.command()
def run(
    config: ConfigPath,
    once: Annotated[bool, typer.Option("--once", help="Score what is there, publish it, exit 0.")] = False,
) -> None:
    """Follow the source and score it, for ever or (--once) until what is there is published."""
    # A reload may be asked for before the daemon listens for it, and would end the process: nothing is read yet.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from mira_stream.daemon.config import load_config
    from mira_stream.daemon.run import run_daemon

    settings = load_config(config)
    raise typer.Exit(_run_async(lambda: run_daemon(settings, once=once, read=lambda: load_config(config))))


@app.command()
def check(
    config: ConfigPath,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only config, rubric and ledger: replicas may still be loading.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the configuration, the stores, the replicas (with one scoring request each) and the rubric."""
    from mira_stream.daemon.check import check_all
    from mira_stream.daemon.config import load_config

    settings = load_config(config)
    report = _run_async(lambda: check_all(settings, offline=offline))
    _say(msgspec.json.encode(report).decode() if as_json else "\n".join(report.lines()))
    raise typer.Exit(0 if report.passed else EXIT_FOUND)


@app.command()
def render(
    file: Annotated[Path, typer.Argument(help="A local JSONL file, plain, zstd or gzip.")],
    ordinal: Annotated[int, typer.Option("--ordinal", "-n", min=0, help="Which line, counted from 0.")] = 0,
    group: Annotated[str, typer.Option("--group", help="Whose rubric; ignored with --config.")] = "agent/A",
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Render as this configuration would.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the request body instead of its text.")
    ] = False,
) -> None:
    """Show exactly what would be sent for one record."""
    from mira_stream.daemon.render import render_record

    shown = _run_async(lambda: render_record(file, ordinal, group=group, config=config))
    _say(shown.body if as_json else shown.text)
    typer.echo(shown.summary, err=True)


@app.command()
def verify(
    config: ConfigPath,
    strict: Annotated[
        bool, typer.Option("--strict", help="Rows that are only pending are an error too.")
    ] = False,
    ledger: Annotated[
        bool,
        typer.Option("--ledger", help="Also check that every segment the ledger calls published exists."),
    ] = False,
    partition: Annotated[
        list[str] | None,
        typer.Option(
            "--partition", help="Only source=…/shard=NN, and what belongs there; several may be given."
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="A file that keeps what was read: interrupted, the next call goes on."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Audit the source against the sink, without trusting the daemon. Exit 0 clean, 1 lost or doubled, 2 not audited."""
    from mira_stream.audit.report import lines
    from mira_stream.cli_verify import VerifyRequest, audit_lake

    request = VerifyRequest(
        strict=strict, with_ledger=ledger, partitions=frozenset(partition or ()), state=state
    )
    audit = _run_async(lambda: audit_lake(config, request))
    _say(msgspec.json.encode(audit).decode() if as_json else "\n".join(lines(audit)))
    raise typer.Exit(audit.exit_code)


@app.command()
def status(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Its configuration file: where it listens.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Its address instead, such as http://127.0.0.1:9464.")
    ] = None,
    token_env: Annotated[
        str | None,
        typer.Option("--token-env", help="Environment variable with its token; default: as configured."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it until interrupted.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a running daemon does, what limits each replica, and what was wasted."""
    from mira_stream.daemon.status_view import show_status, status_token, status_url

    show_status(status_url(config, url), watch=watch, as_json=as_json, token=status_token(config, token_env))


@app.command()
def sim(
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes any free one.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    model: Annotated[str, typer.Option("--model", help="Name under which the model is served.")] = (
        "whw06/MIRA-Agent-Group1"
    ),
    time_scale: Annotated[
        float,
        typer.Option("--time-scale", min=0, help="Wall seconds per modelled second; 0 answers at once."),
    ] = 1.0,
    damage_share: Annotated[
        float, typer.Option("--damage-share", min=0, max=1, help="Share of the replies that are damaged.")
    ] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option("--fault", help="A planned fault, such as 500@10-12; several may be given."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of damage and faults.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, name=value, such as max_model_len=4096."),
    ] = None,
) -> None:
    """Simulate one vLLM replica that answers like a scorer: for demos, planning and tests."""
    from mira_stream.sim.settings import SimSettings

    given: dict[str, object] = {
        "port": port,
        "host": host,
        "model": model,
        "time_scale": time_scale,
        "damage_share": damage_share,
        "faults": tuple(fault or ()),
        "seed": seed,
    }
    given |= _pairs(settings or [], option="--set", example="max_model_len=4096")
    if isinstance(kinds := given.get("damage_kinds"), str):
        given["damage_kinds"] = [kind.strip() for kind in kinds.split(",")]
    unknown = sorted(set(given) - set(SimSettings.__struct_fields__))
    if unknown:
        raise Refusal(
            f"--set: there is no setting {unknown[0]}", f"one of {', '.join(SimSettings.__struct_fields__)}"
        )
    try:
        chosen = msgspec.convert(given, SimSettings, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal(f"mira-stream sim: {error}", "see docs/reference/sim.md") from error
    _run_async(lambda: _serve_sim(chosen))


async def _serve_sim(settings: "SimSettings") -> None:
    from mira_stream.sim.service import serve

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, ready=lambda url: print(f"listening on {url}", flush=True), stop=stop)  # noqa: T201


def _pairs(given: list[str], *, option: str, example: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in given:
        name, separator, value = pair.partition("=")
        if not separator or not value:
            raise Refusal(f"{option} {pair} is not name=value", f"for example {option} {example}")
        pairs[name] = value
    return pairs


@app.command()
def bench(
    replica: Annotated[
        list[str] | None, typer.Option("--replica", help="A replica's address; may be given several times.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Take replicas, group and corpus from there.")
    ] = None,
    simulated: Annotated[
        int, typer.Option("--sim", min=0, max=32, help="Start so many simulated replicas instead.")
    ] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="With --sim: a setting of theirs, name=value.")
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", help="A JSONL file, a folder or s3://…; default: the demo's, made long."),
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Whose rubric; default agent/A.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Name under which it is served; default: the group's.")
    ] = None,
    gpus_per_replica: Annotated[
        int, typer.Option("--gpus-per-replica", min=1, help="GPUs of a replica.")
    ] = 1,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Steady state of each point, in seconds.")
    ] = 120.0,
    concurrency: Annotated[
        str, typer.Option("--concurrency", help="Requests in flight per replica, 1,2,4,…; auto finds them.")
    ] = "auto",
    records: Annotated[
        int | None, typer.Option("--records", min=1, help="Also say what so many records take.")
    ] = None,
    target: Annotated[
        float | None, typer.Option("--target", help="Also say what so many records per second take.")
    ] = None,
    time_scale: Annotated[
        float | None, typer.Option("--time-scale", help="Wall seconds per second of simulated replicas.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.json and plot.svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what live (or simulated) replicas can do with a corpus: the knee, the KV capacity, what to set."""
    from mira_stream.cli_bench import BenchRequest, print_report, run_bench

    request = BenchRequest(
        config=config,
        replicas=tuple(replica or ()),
        sim=simulated,
        sim_settings=tuple(settings or ()),
        corpus=corpus,
        group=group,
        model=model,
        gpus_per_replica=gpus_per_replica,
        seconds=seconds,
        concurrency=concurrency,
        records=records,
        target=target,
        time_scale=time_scale,
    )
    report = _run_async(lambda: run_bench(request))
    print_report(report, out=out, as_json=as_json)
    raise typer.Exit(EXIT_FOUND if report.found_a_problem else 0)


@app.command()
def plan(
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", help="A JSONL file, a folder or s3://…; default: that of --config."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Take corpus, group and settings from there.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Whose rubric; default agent/A.")] = None,
    records: Annotated[int, typer.Option("--records", min=1, help="Lines to sample at most.")] = 384,
    objects: Annotated[int, typer.Option("--objects", min=1, help="Objects to read at most.")] = 48,
    layout: Annotated[
        list[str] | None,
        typer.Option(
            "--layout", help="Replicas x tensor parallelism; several may be given; default 8xtp1 1xtp8."
        ),
    ] = None,
    context: Annotated[
        list[int] | None,
        typer.Option(
            "--context", help="--max-model-len of the replicas; several; default the group's, and half."
        ),
    ] = None,
    batched_tokens: Annotated[
        list[int] | None,
        typer.Option("--batched-tokens", help="--max-num-batched-tokens; several; default 16384 131072."),
    ] = None,
    gpu: Annotated[str, typer.Option("--gpu", help="h200, h100 or a100 (80 GB).")] = "h200",
    assumed: Annotated[
        list[str] | None, typer.Option("--set", help="Another value of an assumption, name=value; several.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed takes another sample.")] = 7,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for plan.json and plan.svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict what a corpus takes: tokens, lengths, GPU-hours by layout, context and batch limit, from a sample."""
    from mira_stream.cli_plan import PlanRequest, look, make_plan, print_plan

    request = PlanRequest(
        config=config,
        corpus=corpus,
        group=group,
        records=records,
        objects=objects,
        layouts=tuple(layout or ()),
        contexts=tuple(context or ()),
        batched_tokens=tuple(batched_tokens or ()),
        gpu=gpu,
        values=_pairs(assumed or [], option="--set", example="output_tokens=900"),
        seed=seed,
    )
    print_plan(make_plan(_run_async(lambda: look(request))), out=out, as_json=as_json)


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where lake, scores and logs go; made anew each time.")
    ] = Path("demo-out"),
) -> None:
    """Score a small lake that grows while it is scored, on two simulated replicas, and audit the result."""
    from mira_stream.demo.run import run_demo

    raise typer.Exit(_run_async(lambda: run_demo(folder)))


@anchors_app.command("import")
def anchors_import(
    file: Annotated[Path, typer.Argument(help="Their file: JSON lines, or one JSON array.")],
    group: Annotated[str, typer.Option("--group", help="Group id, such as agent/A.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; [anchors] path then names it.")],
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="ours=theirs, dotted for nested fields; may be given several times."),
    ] = None,
) -> None:
    """Take over an anchors file of another layout."""
    from mira_stream.daemon.anchors import import_anchors, write_anchors

    names = _pairs(mapping or [], option="--map", example="name=dimension")
    rubric = import_anchors(file, group=group, names=names)
    target = write_anchors(rubric, out)
    _say(f"{target}: {len(rubric.criteria)} slots, fingerprint {rubric.fingerprint}")
