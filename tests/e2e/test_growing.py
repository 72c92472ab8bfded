"""Files that grow, rotate, shrink and are replaced under the daemon, and lakes that let old segments expire."""

import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running, scrape
from tests.e2e.harness import Lab, Row, conversation, replicas, until
from tests.e2e.simulators import Simulator

OLD = [conversation(f"old task {n}") for n in range(4)]
NEW = [conversation(f"new task {n}") for n in range(3)]


def _append(path: Path, *lines: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"".join(lines))


def _ordinals(rows: list[Row]) -> list[list[int]]:
    """Per object version, in the order of publication, the ordinals of its scored rows."""
    versions: dict[str, list[int]] = {}
    for row in rows:
        if row["outcome"] == "scored":
            versions.setdefault(row["etag"], []).append(row["ordinal"])
    return [sorted(ordinals) for ordinals in versions.values()]


def _reasons(rows: list[Row]) -> list[str]:
    return sorted(row["reason"] for row in rows if row["outcome"] != "scored")


def _run(lab: Lab) -> list[Row]:
    ended = lab.run_once()
    assert ended.code == 0, ended.stderr
    lab.audit()
    return lab.rows()


def _unmount(lab: Lab) -> None:
    """The folder stays, as a mount point does, and is empty."""
    lab.lake.rename(lab.folder / "unmounted")
    lab.lake.mkdir()


def _mount(lab: Lab) -> None:
    lab.lake.rmdir()
    (lab.folder / "unmounted").rename(lab.lake)


def _listed_at(daemon: Daemon) -> float:
    return scrape(daemon).sum("mira_stream_source_listed_timestamp_seconds")


@pytest.mark.parametrize("how", ["rename", "copytruncate"])
def test_a_rotated_file_is_read_to_its_end_and_the_next_from_its_start(tmp_path: Path, how: str) -> None:
    """What was appended between the last reading and the rotation is scored, and so is the file that took the name."""
    lab = Lab(tmp_path)
    app, kept = lab.lake / "app.jsonl", lab.lake / "app.jsonl.1"
    with replicas() as urls:
        lab.configure(urls)
        _append(app, *OLD[:3])
        assert _ordinals(_run(lab)) == [[0, 1, 2]]
        _append(app, OLD[3])
        if how == "rename":
            app.rename(kept)
        else:
            shutil.copyfile(app, kept)
            os.truncate(app, 0)
        _append(app, *NEW[:2])
        rows = _run(lab)
        assert sorted(_ordinals(rows)) == [[0, 1], [0, 1, 2, 3]]
        assert _reasons(rows) == []
        assert {row["object"] for row in rows} == {f"file://{app}"}
        # A daemon whose ledger is gone finds nothing new in either.
        shutil.rmtree(tmp_path / "ledger")
        assert len(_run(lab)) == len(rows)


def test_a_file_that_rotates_several_times_between_two_looks_loses_nothing(tmp_path: Path) -> None:
    """Each file that had the name meanwhile is read where it is now; what lies beside for other reasons is not."""
    lab = Lab(tmp_path)
    app = lab.lake / "app.jsonl"
    (lab.lake / "app.jsonl.9").write_bytes(conversation("from before anybody looked"))
    with replicas() as urls:
        lab.configure(urls)
        _append(app, *OLD[:3])
        os.utime(lab.lake / "app.jsonl.9", (1, 1))
        assert _ordinals(_run(lab)) == [[0, 1, 2]]
        _append(app, OLD[3])
        for number in range(20):
            for old in range(number, 0, -1):
                (lab.lake / f"app.jsonl.{old + 100}").rename(lab.lake / f"app.jsonl.{old + 101}")
            app.rename(lab.lake / "app.jsonl.101")
            _append(app, conversation(f"middle {number}"))
        (lab.lake / "app.jsonl.index").write_bytes(b"{}\n")
        rows = _run(lab)
        assert sorted(_ordinals(rows)) == [[0]] * 20 + [[0, 1, 2, 3]]
        assert _reasons(rows) == []
        assert len(_run(lab)) == len(rows)


def test_a_replaced_file_is_refused_once(tmp_path: Path) -> None:
    """Another file under the name, and the first one nowhere: one row says so; a later start adds nothing."""
    lab = Lab(tmp_path)
    with replicas() as urls:
        lab.configure(urls)
        lab.land("a.jsonl", b"".join(OLD))
        _run(lab)
        lab.land("a.jsonl", b"".join(NEW))
        for _ in range(2):
            rows = _run(lab)
            assert _ordinals(rows) == [[0, 1, 2, 3]]
            assert _reasons(rows) == ["superseded"]


@pytest.mark.parametrize("after", [OLD[:2], [OLD[0], *NEW, *NEW]])
def test_a_file_written_over_behind_its_first_line_is_closed_once(tmp_path: Path, after: list[bytes]) -> None:
    """Shorter, or longer with other lines: its identity is the same, so nothing more of it is read; one row says so,
    and the audit does not call that complete."""
    lab = Lab(tmp_path)
    with replicas() as urls:
        lab.configure(urls)
        lab.land("a.jsonl", b"".join(OLD))
        _run(lab)
        lab.land("a.jsonl", b"".join(after))
        for _ in range(2):
            assert lab.run_once().code == 0
            rows = lab.rows()
            assert lab.command("verify").code == 0
            strict = lab.command("verify", "--strict")
            assert (strict.code, "1 object written over (--strict)" in strict.stdout) == (1, True)
            assert _ordinals(rows) == [[0, 1, 2, 3]]
            assert _reasons(rows) == ["overwritten"]
            _append(lab.lake / "a.jsonl", conversation("more"))


def test_old_segments_may_expire_under_a_checkpoint(tmp_path: Path) -> None:
    """Segments that a checkpoint covers are removed, then the ledger too: nothing is scored twice, the rest goes on."""
    lab = Lab(tmp_path)
    sink = {"roll_records": 2, "checkpoint_segments": 3}
    with replicas() as urls:
        lab.configure(urls, sink=sink)
        for n in range(3):
            lab.land(f"{n}.jsonl", b"".join(conversation(f"task {n}.{line}") for line in range(4)))
        assert len(_run(lab)) == 12
        assert len(list(lab.segments())) >= 6
        lab.configure(urls, sink=sink | {"checkpoint_seconds": 0.001})
        assert len(_run(lab)) == 12
        checkpoints = sorted((lab.scores / "_mira_stream").glob("source=*/shard=*/checkpoint-*"))
        assert checkpoints
        covered = int(checkpoints[-1].name.removeprefix("checkpoint-"))
        for name, _ in list(lab.segments()):
            if int(Path(name).name.partition(".")[0]) <= covered:
                (lab.scores / name).unlink()
        lab.configure(urls, sink=sink)
        shutil.rmtree(tmp_path / "ledger")
        lab.land("3.jsonl", b"".join(conversation(f"late task {n}") for n in range(3)))
        rows = _run(lab)
        left = 12 - sum(row["object"].endswith("3.jsonl") is False for row in rows)
        found = lab.audit()
        assert found["expired_segments"] == covered + 1
        assert found["expired_rows"] == left
        assert found["rows"] + left == found["source_lines"] == 15
        assert sum(row["object"].endswith("3.jsonl") for row in rows) == 3
        text = lab.command("verify", "--strict").stdout
        assert "expired under checkpoints" in text


def test_a_segment_missing_above_the_checkpoint_stops_its_partition(tmp_path: Path) -> None:
    """The other sources go on; the run ends badly, and says what to restore."""
    lab = Lab(tmp_path)
    with replicas() as urls:
        lab.configure(urls, sink={"roll_records": 2})
        for source in ("one", "two"):
            lab.land(f"{source}/a.jsonl", b"".join(OLD))
        _run(lab)
        (lab.scores / "source=one/shard=00/00000000.jsonl.zst").unlink()
        for source in ("one", "two"):
            lab.land(f"{source}/b.jsonl", b"".join(NEW))
        ended = lab.run_once()
        assert ended.code == 1
        assert "segment 0 of source=one/shard=00 is missing" in ended.stdout + ended.stderr
        objects = [row["object"].rpartition("/lake/")[2] for row in lab.rows()]
        assert objects.count("two/b.jsonl") == 3
        assert "one/b.jsonl" not in objects


def test_files_that_are_gone_for_a_moment_lose_nothing(tmp_path: Path) -> None:
    """The lake is unmounted and comes back as it was: what was not read yet is read, what grows is followed on."""
    lab = Lab(tmp_path)
    app = lab.lake / "app.jsonl"
    for number in range(12):
        lab.land(f"known/{number}.jsonl", b"".join(OLD) * 8)
    with Simulator(tmp_path / "requests.log") as sim:
        lab.configure([sim.future_url], source={"grow_settle_seconds": 600}, log={"level": "info"})
        with running(lab) as daemon:
            daemon.until_read_ahead_is_full()
            _unmount(lab)
            sim.start()
            until(
                lambda: "it is read if it comes back" in daemon.log.read_text("utf-8"),
                "a file is found to be gone",
            )
            _mount(lab)
            daemon.until_scored(12 * 32)
            _append(app, *OLD)
            daemon.until_scored(12 * 32 + 4)
            _unmount(lab)
            # Two ends: the listing that ends next may have begun before.
            for _ in range(2):
                ended = _listed_at(daemon)
                until(lambda ended=ended: _listed_at(daemon) > ended, "a listing shows nothing")
            _mount(lab)
            _append(app, *NEW)
            daemon.until_scored(12 * 32 + 7)
            assert daemon.terminate() == 0
    lab.audited()


def test_a_start_before_the_lake_is_mounted_closes_nothing(tmp_path: Path) -> None:
    """Objects that were half read at a kill are not there at the next start: they are no dead letters, but wait."""
    lab = Lab(tmp_path)
    for number in range(3):
        lab.land(f"known/{number}.jsonl", b"".join(OLD) * 50)
    with Simulator(tmp_path / "requests.log").start() as sim:
        lab.configure([sim.url], log={"level": "info"})
        with running(lab) as daemon:
            daemon.until(lambda status: status["in_pipeline"]["received"] > 0, "some are received")
        _unmount(lab)
        assert lab.run_once().code == 0
        assert lab.rows()
        _mount(lab)
        assert len(_run(lab)) == 600
        assert _reasons(lab.rows()) == []
