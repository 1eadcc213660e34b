"""Commands with which people move, undo, inspect and clean up releases: a part of the `troika` command."""
# ruff: noqa: PLC0415

import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from troika.errors import ReleaseError, TroikaError

Home = Annotated[Path, typer.Option(envvar="TROIKA_HOME", help="Folder of the local store and Git remote.")]
To = Annotated[str | None, typer.Option("--to", help="Environment; default: TROIKA_ENVIRONMENT, or local.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Take the place of a model of another name in this environment.")
]
_HOME = Path(".troika")
_DAY = timedelta(days=1)


def release(
    digest: Annotated[
        str | None, typer.Argument(help="A published model; the start of its digest will do.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Its name, where the store holds several.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Release what this environment serves.")] = None,
    to: To = None,
    replace: Replace = False,
    home: Home = _HOME,
) -> None:
    """Point an environment to a published model, by one Git commit.

    Before the commit the model is loaded by a real Triton and must give its golden images.
    """
    from troika.releases import local, pointer
    from troika.releases.store import PublishedModel
    from troika.serving.golden import check_published

    remote, environment = local.release_remote(home), to or local.environment()
    if (digest is None) == (from_ is None):
        raise ReleaseError("give either the digest of a published model, or --from ENVIRONMENT")
    if from_ is not None:
        current = pointer.read_release(remote, from_)
        if current is None:
            raise ReleaseError(f"nothing has been released to {from_}")
        published = PublishedModel(
            current.model,
            current.digest,
            current.store,
            created=False,
            dataset=current.dataset,
            dataset_source=current.dataset_source,
        )
        verdict = current.verdict_sha256
    else:
        published, verdict = _find(local.store_url(home), digest or "", model)
    pointer.check_name(environment, pointer.read_release(remote, environment), published.model, replace=replace)
    with tempfile.TemporaryDirectory(prefix="troika-golden-") as scratch:
        golden = check_published(
            published.store, published.model, published.digest, Path(scratch), local.verify_key()
        )
    typer.echo(
        f"Triton gives its {golden.images} golden images (largest difference {golden.largest_difference} of 255)"
    )
    made, commit, created = pointer.release(remote, environment, published, verdict, replace=replace)
    happened = "released" if created else "is already current"
    typer.echo(f"{environment}: version {made.version} {happened}, commit {commit[:12]}")


def rollback(
    to: To = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Go back to this one; default: what the current one replaced.")
    ] = None,
    home: Home = _HOME,
) -> None:
    """Point an environment back to an earlier release: a commit as `git revert` makes it.

    Refuses if that model is not in the store any more, whole and right.
    """
    from troika.releases import local, pointer
    from troika.releases.store import verify_entry

    remote, environment = local.release_remote(home), to or local.environment()
    history = pointer.read_history(remote, environment)
    current = pointer.read_release(remote, environment)
    before = pointer.replaced(current, history) if current else None
    wanted = next((past for past in history if past.release.version == version), None) if version else before
    if wanted is not None:
        version = wanted.release.version
        verify_entry(wanted.release.store, wanted.release.model, wanted.release.digest, local.verify_key())
    made, commit, created = pointer.rollback(remote, environment, version)
    happened = "back" if created else "already"
    typer.echo(f"{environment}: {happened} at version {made.version}, {made.digest}, commit {commit[:12]}")


def releases(
    to: To = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    home: Home = _HOME,
) -> None:
    """Show what an environment was pointed to, newest first, with verdicts."""
    from troika.releases import local, pointer

    remote, environment = local.release_remote(home), to or local.environment()
    history = pointer.read_history(remote, environment)
    if not history:
        raise ReleaseError(f"nothing has been released to {environment}")
    current = pointer.read_release(remote, environment)
    highest = 0
    rows: list[dict[str, Any]] = []
    for number, past in reversed(list(enumerate(history))):
        rows.append(
            {
                "version": past.release.version,
                "model": past.release.model,
                "digest": past.release.digest,
                "when": past.when.isoformat(timespec="seconds"),
                "by": past.author,
                "commit": past.commit,
                "current": number == 0 and past.release == current,
                "rollback": past.release.version <= highest,
                "verdict": _verdict_of(past.release),
                "dataset": past.release.dataset,
                "dataset_source": past.release.dataset_source,
            }
        )
        highest = max(highest, past.release.version)
    rows = rows[::-1][:count]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        marks = [mark for mark in ("current", "rollback") if row[mark]]
        typer.echo(
            f"{row['version']:>4}  {row['model']} {row['digest'][:19]}  {row['when']}  {row['by']}  "
            f"{row['commit'][:12]}  {_in_words(row['verdict'])}{'  ' if marks else ''}{', '.join(marks)}"
            + (f"\n      trained on {row['dataset_source']}, {row['dataset'][:19]}" if row["dataset"] else "")
        )


def verify(
    to: To = None,
    server: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT (gRPC) of a replica; may be repeated.")
    ] = None,
    home: Home = _HOME,
) -> None:
    """Prove the chain from Git to the store, and to the servers that are named.

    Prints one line for each check; exit status 1 if one failed.
    """
    from troika.releases import local, pointer
    from troika.releases.store import verify_entry
    from troika.serving.client import Client

    environment = to or local.environment()
    current = pointer.read_release(local.release_remote(home), environment)
    if current is None:
        raise ReleaseError(f"nothing has been released to {environment}")
    typer.echo(f"ok      pointer  {environment}: {current.model} version {current.version}, {current.digest}")
    key, failed = local.verify_key(), False

    def check(name: str, said: Any) -> None:
        nonlocal failed
        try:
            typer.echo(f"ok      {name:<8} {said()}")
        except TroikaError as error:
            failed = True
            typer.echo(f"FAILED  {name:<8} {error}")

    def entry() -> str:
        manifest = verify_entry(current.store, current.model, current.digest, key)
        return f"{len(manifest.files)} files, every byte{', signed' if key else ''} ({current.store})"

    def verdict() -> str:
        found = _verdict_of(current)
        if found is None:
            raise ReleaseError(f"the store has no verdict {current.verdict_sha256}; publish the model again")
        if found["decision"] != "promote" or found["bundle_digest"] != current.digest:
            raise ReleaseError(f"the verdict is {found['decision']!r} on {found['bundle_digest']}; roll back")
        return _in_words(found)

    def replica(address: str) -> str:
        with Client(address, model=current.model, timeout=10) as client:
            served = client.generate(1).model_digest
        if served != current.digest:
            raise ReleaseError(f"{address} serves {served}; wait for the roll-out, or restart it")
        return f"{address} serves it"

    check("store", entry)
    check("verdict", verdict)
    for address in server or []:
        check("server", lambda address=address: replica(address))
    if failed:
        raise typer.Exit(1)


def gc(
    older_than: Annotated[
        float, typer.Option(min=0, help="Days; what is younger stays: it may be in the making.")
    ] = 7,
    keep_days: Annotated[
        float, typer.Option(min=0, help="Days; what any environment served since then stays.")
    ] = 90,
    keep: Annotated[list[str] | None, typer.Option(help="MODEL@sha256:...: stays too; may be repeated.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, only tell.")] = False,
    home: Home = _HOME,
) -> None:
    """Remove models from the store that nothing points to any more.

    What any environment serves or served lately stays, and what it served just before.
    """
    from troika.releases import local, pointer
    from troika.releases.collect import collect

    remote, store = local.release_remote(home), local.store_url(home)
    kept = set()
    for named in keep or []:
        name, at, digest = named.partition("@")
        if not at:
            raise ReleaseError(f"--keep {named!r} is not usable: give MODEL@sha256:...")
        kept.add((name, digest))
    since = datetime.now(UTC) - keep_days * _DAY
    for environment in pointer.read_environments(remote):
        history = pointer.read_history(remote, environment)
        for number, past in enumerate(history):
            # A state ended when the next one began.
            ended = history[number - 1].when if number else datetime.now(UTC)
            if number < 2 or ended >= since:
                kept.add((past.release.model, past.release.digest))
                if past.release.previous_digest and number == 0:
                    kept.add((past.release.model, past.release.previous_digest))
    removed = collect(store, kept, older_than * _DAY, dry_run=not yes)
    for one in removed:
        what = "removed" if yes else "would go"
        typer.echo(f"{what}  {one.path}  {one.files} files, last written {one.newest:%Y-%m-%d}")
    typer.echo(f"{len(removed)} {'removed' if yes else 'would be removed; --yes does it'}, {len(kept)} kept")


def _find(store: str, start: str, model: str | None) -> tuple[Any, str]:
    """The published model whose digest starts so, and the hash of the newest verdict on it."""
    from troika.releases.storage import open_storage
    from troika.releases.store import find_published

    wanted = f"sha256-{start.removeprefix('sha256:')}"
    names = open_storage(store).names("")
    found = {
        (parts[0], parts[1])
        for parts in (name.split("/") for name in names)
        if len(parts) == 3
        and parts[2] == "manifest.json"
        and parts[1].startswith(wanted)
        and model in {None, parts[0]}
    }
    if len(found) != 1 or len(start.removeprefix("sha256:")) < 6:
        raise ReleaseError(
            f"{start!r} is the digest of {len(found)} models in {store}; give more of it (6 digits at least), "
            "and --model"
        )
    ((name, entry),) = found
    verdicts = {path: written for path, written in names.items() if path.startswith(f"{name}/{entry}.verdicts/")}
    if not verdicts:
        raise ReleaseError(f"{store} has no verdict on {name} {entry}; publish it again")
    newest = max(verdicts, key=lambda path: verdicts[path])
    digest = entry.replace("-", ":", 1)
    return find_published(store, name, digest), f"sha256:{Path(newest).stem}"


def _verdict_of(release: Any) -> dict[str, Any] | None:
    """The verdict in the store that the pointer names; None if there is none."""
    from troika.releases.store import read_verdict

    content = read_verdict(release.store, release.model, release.digest, release.verdict_sha256)
    return None if content is None else json.loads(content)


def _in_words(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "no verdict in the store"
    figures = [m for m in verdict.get("measures", []) if m.get("limit") and m.get("value") is not None]
    said = ", ".join(f"{m['name']} {m['value']:.4g}" for m in figures)
    return f"{verdict.get('decision')}{f' ({said})' if said else ''}"
