"""What a reload may change and what it refuses, and how the pools get to what they shall be."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.errors import Permanent, Refusal
from mira_stream.daemon.config import parse_config
from mira_stream.daemon.notify import Notifier
from mira_stream.daemon.reload import Pools, Reloader, Setup, setup_of, wanted_replicas
from mira_stream.pipeline.watch import Watcher
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters
from tests.fakes.lab import laboratory
from tests.fakes.pool import Pool, dispatching
from tests.fakes.scripted_replica import Held, ScriptedReplica

CRITERION = '{"slot":"A1","name":"Clarity","references":[{"score":2,"text":"unclear"}]}\n'
ONE, TWO, THREE = "http://one", "http://two", "http://three"
Urls = dict[str, list[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three groups that are known well enough."""
    texts = (
        f'[[group]]\nid = "agent/{name}"\ntitle = "t"\nmodel = "m"\nprompt_family = "agent"\nanchors = "a.jsonl"\n'
        f'dimensions = 1\ncontext_tokens = 8192\nrecords = 1\nsources = ["{name}"]\nsources_complete = true\n'
        for name in "ABC"
    )
    (tmp_path / "groups.toml").write_text("".join(texts))
    (tmp_path / "a.jsonl").write_text(CRITERION)
    return tmp_path


def setup(folder: Path, pools: Urls, more: str = "") -> Setup:
    """A configuration with these replicas for each group."""
    text = f'[source]\nuri = "/lake"\n[sink]\nuri = "/scores"\n[anchors]\npath = "{folder}"\n{more}\n'
    for group, urls in pools.items():
        text += f"[[pool]]\ngroup = '{group}'\nreplicas = {urls}\napi_key_env = 'RELOAD_KEY'\n"
    return setup_of(parse_config(text, "test"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELOAD_KEY", "first")


PAIR = {"agent/A": [ONE, TWO], "agent/B": [THREE]}


def test_replicas_may_come_go_and_move(folder: Path) -> None:
    """By name, however the address is spelt."""
    new = setup(folder, {"agent/A": [f"{ONE}/v1", THREE], "agent/B": ["http://four"]})
    assert wanted_replicas(setup(folder, PAIR), new) == {
        "agent/A": {ONE: f"{ONE}/v1", THREE: THREE},
        "agent/B": {"http://four": "http://four"},
    }


def test_the_order_of_pools_means_nothing(folder: Path) -> None:
    """They are told apart by their groups."""
    new = setup(folder, {"agent/B": [THREE], "agent/A": [TWO, ONE]})
    assert set(wanted_replicas(setup(folder, PAIR), new)["agent/A"]) == {ONE, TWO}


@pytest.mark.parametrize(
    ("pools", "more", "named"),
    [
        ({"agent/A": [ONE]}, "", "pool.agent/B"),
        ({"agent/A": [ONE], "agent/C": [THREE]}, "", "pool.agent/B, pool.agent/C"),
        (
            PAIR,
            "[admission]\nrequests_max = 7\n[request]\ntemperature = 0.5",
            "admission.requests_max, request.temperature",
        ),
    ],
)
def test_anything_else_is_refused_by_its_name(folder: Path, pools: Urls, more: str, named: str) -> None:
    """As a whole: no half of a configuration is taken over."""
    with pytest.raises(Refusal) as refused:
        wanted_replicas(setup(folder, PAIR), setup(folder, pools, more))
    assert str(refused.value).startswith(f"{named}: ")
    assert "restart" in refused.value.hint


def test_what_has_changed_behind_the_same_file_is_refused_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rubric or another key would be taken for the new one; the key itself is not told."""
    old = setup(folder, PAIR)
    (folder / "a.jsonl").write_text(CRITERION.replace("unclear", "muddled"))
    with pytest.raises(Refusal, match=r"agent/A\.anchors, .*agent/A\.prompt, .*agent/B\.anchors"):
        wanted_replicas(old, setup(folder, PAIR))
    (folder / "a.jsonl").write_text(CRITERION)
    monkeypatch.setenv("RELOAD_KEY", "second")
    with pytest.raises(Refusal, match=r"agent/A\.api_key") as refused:
        wanted_replicas(old, setup(folder, PAIR))
    assert "second" not in f"{refused.value} {refused.value.hint}"


class Fleet:
    """Two pools over scripted replicas, which are opened when they come."""

    def __init__(self, folder: Path, first: Pool, second: Pool, *others: ScriptedReplica) -> None:
        self.by_group = {"agent/A": first, "agent/B": second}
        self.opened: list[str] = []
        self._others = {one.name: one for one in others}
        plans = setup(folder, {group: list(pool.replicas) for group, pool in self.by_group.items()}).plans
        self.pools = Pools(
            {group: pool.dispatcher for group, pool in self.by_group.items()},
            {group: _watcher(pool) for group, pool in self.by_group.items()},
            plans=plans,
            make=self._make,
            meters=first.lab.meters,
        )
        for pool in self.by_group.values():
            pool.dispatcher.on_request_ended = self._step

    def _make(self, group: str, url: str) -> ScriptedReplica:
        self.opened.append(f"{url} for {group}")
        return self._others[url.replace("user:pass@", "")]

    def want(self, first: list[str], second: list[str]) -> None:
        """As a reload does it."""
        wanted = {"agent/A": first, "agent/B": second}
        self.pools.want(
            {group: {url.replace("user:pass@", ""): url for url in urls} for group, urls in wanted.items()}
        )
        self._step()

    def _step(self) -> None:
        self.pools.step()
        assert not set(self.names("agent/A")) & set(self.names("agent/B")), "an engine with two masters"

    async def come_to_rest(self) -> None:
        """Wait until the pools have what they shall have; it takes steps of the loop, not time."""
        for _ in range(1000):
            if self.pools.at_rest:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{self.names('agent/A')}, {self.names('agent/B')}")

    def names(self, group: str) -> list[str]:
        return sorted(self.by_group[group].dispatcher.replicas)


def _watcher(pool: Pool) -> Watcher:
    return Watcher(
        pool.dispatcher,
        context_tokens=8192,
        settings=AdmissionSettings(scrape_seconds=0.001, scrape_seconds_min=0.001),
        clock=lambda: pool.now,
        jitter=lambda: 0.0,
        meters=pool.lab.meters,
    )


def _play(
    folder: Path,
    story: Callable[[Fleet], Coroutine[None, None, None]],
    first: ScriptedReplica,
    second: ScriptedReplica,
    *others: ScriptedReplica,
) -> None:
    async def run() -> None:
        async with laboratory(folder / "lab") as lab:
            fleet = Fleet(folder, Pool(lab, first), Pool(lab, second), *others)
            async with dispatching(fleet.by_group["agent/A"]):
                await story(fleet)

    (folder / "lab").mkdir()
    asyncio.run(run())


def test_a_replica_joins_its_new_pool_only_when_it_has_left_the_old_one(folder: Path) -> None:
    """Its requests end first; the pool that it leaves may be left with none for a while."""
    held = [Held(), Held()]
    one, three = ScriptedReplica(ONE, held), ScriptedReplica(THREE)

    async def story(fleet: Fleet) -> None:
        first = fleet.by_group["agent/A"]
        await first.offer(0, 1)
        await one.until(lambda _: one.in_flight == 2)
        fleet.want([THREE], [ONE])
        assert (fleet.names("agent/A"), fleet.names("agent/B")) == ([ONE, THREE], [])
        held[0].released.set()
        await one.until(lambda _: one.in_flight == 1)
        assert ONE in fleet.names("agent/A")
        assert not fleet.pools.at_rest
        held[1].released.set()
        await fleet.come_to_rest()
        assert (fleet.names("agent/A"), fleet.names("agent/B")) == ([THREE], [ONE])
        assert fleet.opened == [f"{THREE} for agent/A", f"{ONE} for agent/B"]

    _play(folder, story, one, three, one, three)


def test_the_newest_wish_counts(folder: Path) -> None:
    """One that was on its way out and is wanted again stays, and works on; nothing is opened anew."""
    held = Held()
    one = ScriptedReplica(ONE, [held])

    async def story(fleet: Fleet) -> None:
        await fleet.by_group["agent/A"].offer(0)
        await held.asked.wait()
        fleet.want([TWO], [THREE])
        assert fleet.names("agent/A") == [ONE, TWO]
        fleet.want([ONE], [THREE])
        assert fleet.names("agent/A") == [ONE]
        assert fleet.pools.at_rest
        await fleet.by_group["agent/A"].offer(1)
        await one.until(lambda _: len(one.asks) == 2)
        held.released.set()
        assert fleet.opened == [f"{TWO} for agent/A"]

    _play(folder, story, one, ScriptedReplica(THREE), ScriptedReplica(TWO))


def test_a_replica_with_other_credentials_leaves_and_comes_again(folder: Path) -> None:
    """Its name is the same; what is in flight ends with the old ones."""
    held = Held()
    one = ScriptedReplica(ONE, [held])

    async def story(fleet: Fleet) -> None:
        await fleet.by_group["agent/A"].offer(0)
        await held.asked.wait()
        fleet.want(["http://user:pass@one"], [THREE])
        assert fleet.opened == []
        held.released.set()
        await fleet.come_to_rest()
        assert fleet.opened == ["http://user:pass@one for agent/A"]

    _play(folder, story, one, ScriptedReplica(THREE), one)


def test_what_a_leaving_replica_refuses_last_stops_no_pool(folder: Path) -> None:
    """It has not left before it could say whether the records are to blame, though their permits are settled."""
    refused = [Held(Permanent(400, "no such thing", "messages")) for _ in range(2)]
    canned = Held()
    one = ScriptedReplica(ONE, [*refused, canned])

    async def story(fleet: Fleet) -> None:
        first = fleet.by_group["agent/A"]
        await first.offer(0, 1)
        await one.until(lambda _: one.in_flight == 2)
        fleet.want([TWO], [THREE])
        for held in refused:
            held.released.set()
        await canned.asked.wait()
        fleet.want([TWO], [THREE])
        assert fleet.names("agent/A") == [ONE, TWO]
        canned.released.set()
        await fleet.come_to_rest()
        assert fleet.names("agent/A") == [TWO]
        assert first.control.stopped is None

    _play(folder, story, one, ScriptedReplica(THREE), ScriptedReplica(TWO))


def test_one_that_comes_back_at_once_is_watched_again(folder: Path) -> None:
    """Though who watched it before has not noticed yet that it was gone."""
    one, again = ScriptedReplica(ONE), ScriptedReplica(ONE)

    async def run() -> None:
        async with asyncio.timeout(10), laboratory(folder / "lab") as lab, asyncio.TaskGroup() as group:
            pool = Pool(lab, one)
            watcher = _watcher(pool)
            watching = group.create_task(watcher.run())
            await one.until(lambda _: one.looks > 1)
            pool.dispatcher.leave(ONE)
            assert pool.dispatcher.left(ONE)
            pool.dispatcher.add(ONE, again)
            watcher.add(ONE)
            await again.until(lambda _: again.looks > 1)
            watching.cancel()

    (folder / "lab").mkdir()
    asyncio.run(run())


class Told(Notifier):
    """Writes down what systemd would be told."""

    def __init__(self) -> None:
        super().__init__("")
        self.words: list[str] = []

    def reloading(self) -> None:
        self.words.append("reloading")

    def ready(self) -> None:
        self.words.append("ready")


@pytest.mark.parametrize(
    ("state", "fails", "words", "done", "refused"),
    [
        ("starting", False, [], 1, 0),
        ("running", False, ["reloading", "ready"], 1, 0),
        ("running", True, ["reloading", "ready"], 0, 1),
        ("draining", False, [], 0, 0),
    ],
)
def test_systemd_hears_of_a_reload_while_the_daemon_runs(
    folder: Path, state: str, fails: bool, words: list[str], done: int, refused: int
) -> None:
    """Before, it must not call itself ready; and who is about to end reads nothing more. A file that cannot be read
    is refused like a bad one."""
    told, meters, known = Told(), Meters(), Setup(setup(folder, PAIR).config, ())
    pools = Pools({}, {}, plans=(), make=lambda *_: ScriptedReplica(), meters=meters)

    async def read() -> Setup:
        if fails:
            raise PermissionError("not yours")
        return known

    async def run() -> None:
        asked = asyncio.Event()
        reloader = Reloader(known, pools, read=read, asked=asked, state=lambda: state, meters=meters)
        async with asyncio.TaskGroup() as group:
            life = group.create_task(reloader.run(told))
            asked.set()
            for _ in range(20):
                await asyncio.sleep(0)
            life.cancel()

    asyncio.run(run())
    assert told.words == words
    assert meters.value(metrics.CONFIG_RELOADS, ("done",)) == done
    assert meters.value(metrics.CONFIG_RELOADS, ("refused",)) == refused


def test_the_gauges_of_a_replica_that_has_left_are_dropped() -> None:
    """A dashboard must not show ghosts; what it has done stays counted."""
    meters = Meters()
    for name in ("one", "two"):
        meters.add(metrics.REPLICA_ANSWERS, 1, (name,))
        meters.observe(metrics.REPLICA_LATENCY_SECONDS, 1.0, (name,))
        meters.set(metrics.REPLICA_REQUESTS, 1, (name,))
        meters.set(metrics.REPLICA_LIMITING_FACTOR, 1, (name, "kv"))
    meters.set(metrics.SINK_BACKLOG_ROWS, 1)
    meters.forget("replica", "one")
    assert list(meters.values[metrics.REPLICA_REQUESTS]) == [("two",)]
    assert list(meters.values[metrics.REPLICA_LIMITING_FACTOR]) == [("two", "kv")]
    assert meters.sum(metrics.REPLICA_ANSWERS) == 2
    assert len(meters.histograms[metrics.REPLICA_LATENCY_SECONDS]) == 2
    assert meters.value(metrics.SINK_BACKLOG_ROWS) == 1
