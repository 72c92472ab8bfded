"""The status page in a real browser: it says how the daemon is in every state, reads well, and runs nothing foreign.

Pictures of every state are kept in build/screenshots/.
"""

import asyncio
import json
import signal
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from mira_stream.sim.settings import SimSettings
from tests.e2e.daemon import Daemon, running
from tests.e2e.harness import Lab, conversation, replicas
from tests.e2e.simulators import Simulator, hosted
from tests.e2e.test_secrets import Answer, echoing
from tests.system.browser import Page, browse

SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
SHOWN = "!document.getElementById('body').hidden"
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
LOG = {"level": "info"}
MORE = conversation("More of it. " * 300) * 1500
"""More than is scored while somebody looks."""
SLOW = ("--time-scale", "0.1")
_ENTER, _TAB = ("Enter", 13), ("Tab", 9)

# What a reader with weak eyes needs: each text against the ground that it stands on.
CONTRAST = """
(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const weak = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("script, option, .skip")) continue;
    const [one, other] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${walker.currentNode.data.trim()}`);
  }
  return weak;
})()
"""
WATCH_SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map((one) =>
  [one.value, ...one.sources.map(({node, previousRect, currentRect}) => [node?.className || node?.nodeName || "", node?.textContent?.slice(0, 40), previousRect.y, currentRect.y].join(" "))]))).observe({type: "layout-shift"});
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Two sources with records of many lengths, one of them not of `groups.toml`, and a few lines that are no records."""
    lab = Lab(tmp_path / "lab")
    for source in ("claude_cli", "mystery"):
        lines = (conversation(f"Task {number}: " + "mend it. " * (number % 97)) for number in range(150))
        lab.land(f"{source}/a.jsonl", b"".join(lines))
    lab.land("claude_cli/bad.jsonl", b"not json\n[1]\n{}\n\n")
    return lab


async def keep_pictures(page: Page, state: str) -> None:
    """Of the page as it is, for every screen; nothing sticks out at the side, and all text can be read."""
    for scheme in SCHEMES:
        for width in WIDTHS:
            await page.look(width=width, scheme=scheme)
            assert await page.run("document.documentElement.scrollWidth") == width, state
            assert await page.run(f"document.body.dataset.lost === '' ? [] : {CONTRAST}") == [], (
                state,
                scheme,
            )
            await page.keep_picture(SHOTS / f"{state}-{scheme}-{width}.png")


def text(selector: str) -> str:
    """What an element shows, as an expression."""
    return f"document.querySelector({selector!r}).innerText"


async def opened(page: Page, daemon: Daemon) -> None:
    """Go to the page of a daemon, and wait for its first answer."""
    await page.look(width=1280, scheme="light")
    await page.open(f"http://{daemon.address}/")
    await page.until(SHOWN)


def test_a_busy_daemon(lab: Lab, tmp_path: Path) -> None:
    """What limits it, at what rate; the browser has nothing to complain of, asks nobody else, and nothing jumps."""

    async def story(page: Page) -> None:
        await opened(page, daemon)
        assert await page.run(text("#identity .adds-up")) == "✓ adds up"
        assert await page.run(text("#verdict h1")) == "All is well."
        await page.until("document.querySelectorAll('#scores .slots .slot').length === 15")
        await page.run(WATCH_SHIFTS)
        seen = await page.run(text("#flow li:nth-child(7) .value"))
        await page.until(f"{text('#flow li:nth-child(7) .value')} !== {seen!r}")
        await page.until("document.querySelector('.spark .line').getAttribute('d') !== ''")
        shifts = await page.run("window.shifts")
        assert sum(shift[0] for shift in shifts) < 0.01, shifts
        await _choose_a_source(page)
        await _go_by_keys(page)
        await keep_pictures(page, "busy")
        assert page.complaints == []
        assert {url.split("/")[2] for url in page.asked} == {daemon.address}

    lab.land("claude_cli/more.jsonl", MORE)
    with replicas(*SLOW) as urls:
        lab.configure(urls, log=LOG)
        with running(lab) as daemon:
            daemon.until(lambda status: len(status["scores"]) == 2, "records of both sources are scored")
            browse(tmp_path, story)


async def _choose_a_source(page: Page) -> None:
    """The histograms are those of what is chosen, and stay so."""
    titles = await page.run("[...document.querySelectorAll('#scores-of option')].map((one) => one.text)")
    assert titles == ["agent/A, all sources", "agent/A, claude_cli", "agent/A, other"]
    total = "Number(document.querySelector('#scores > .note:last-child').innerText.split(' ')[0].replace(',', ''))"
    whole = await page.run(total)
    await page.run(
        "(() => { const list = document.getElementById('scores-of'); list.selectedIndex = 1;"
        " list.dispatchEvent(new Event('change')); })()"
    )
    assert 0 < await page.run(total) < whole


async def _go_by_keys(page: Page) -> None:
    """Everything that can be worked is reached with Tab; Enter opens a dead letter, and an update leaves it open."""
    await page.run("document.activeElement.blur()")
    await page.until("document.querySelectorAll('.letters summary').length === 3")
    reached = []
    for _ in range(6):
        await page.press(*_TAB)
        reached.append(await page.run("document.activeElement.className || document.activeElement.tagName"))
    assert reached[:4] == ["skip", "SELECT", "letters", "SUMMARY"]
    await page.press(*_ENTER)
    await page.until("document.querySelector('.letters details[open]') !== null")
    assert "mira-stream dead-letters explain" in await page.run(text(".letters details[open]"))
    link = "document.getElementById('link-text').innerText"
    await page.until(f"{link}.includes('s ago')")
    await page.until(f"{link}.includes('now')")
    assert await page.run("document.activeElement.closest('details').open")


def test_from_no_replica_to_caught_up_to_gone(lab: Lab, tmp_path: Path) -> None:
    """Nobody answers, one of two does, both do, all is scored, the daemon drains, and then it is gone."""

    async def story(page: Page) -> None:
        await opened(page, daemon)
        await page.until(
            f"{text('#verdict h1')} === 'One thing to look at.' || {text('.todo')}.includes('No replica')"
        )
        assert await page.run("document.getElementById('verdict').dataset.health") == "wrong"
        await keep_pictures(page, "no-replica")
        one.start()
        await page.until(f"{text('.todo')}.includes('1 of 2 replicas of agent/A does not answer')")
        await keep_pictures(page, "replica-down")
        two.start()
        await page.until(f"{text('.limit')}.startsWith('Caught up')")
        await page.until(f"{text('#verdict h1')} === 'All is well.'")
        await keep_pictures(page, "caught-up")
        one.kill()
        two.kill()
        one.start("--fault", "hang@all")
        lab.land("claude_cli/last.jsonl", b"".join(conversation(f"Last {number}.") for number in range(9)))
        await asyncio.to_thread(
            daemon.until, lambda status: status["in_pipeline"]["in_flight"] > 0, "one is asked"
        )
        daemon.process.send_signal(signal.SIGTERM)
        await page.until(f"{text('.limit')}.includes('shutting down')")
        await keep_pictures(page, "draining")
        daemon.process.kill()
        await page.until(f"{text('#verdict h1')} === 'The daemon does not answer.'")
        assert "no answer" in await page.run(text("#link"))
        await keep_pictures(page, "lost")

    with ExitStack() as stack:
        one, two = (stack.enter_context(Simulator(lab.folder / f"sim{number}.log")) for number in (1, 2))
        quick = {"breaker_seconds_min": 0.1, "breaker_seconds_max": 0.2}
        lab.configure([one.future_url, two.future_url], log=LOG, admission=quick)
        daemon = stack.enter_context(running(lab))
        browse(tmp_path, story)


def test_a_stopped_pool(lab: Lab, tmp_path: Path) -> None:
    """It says at the top what the server said, and what to do."""

    async def story(page: Page) -> None:
        await opened(page, daemon)
        assert await page.run(text("#verdict h1")) == "Something is wrong."
        todo = await page.run(text(".todo"))
        assert "agent/A is stopped: http://127.0.0.1" in todo
        assert "mira-stream check --config" in todo
        assert "400" in await page.run(text(".stopped"))
        await keep_pictures(page, "stopped-pool")
        assert page.complaints == []

    with replicas("--fault", "400@all") as urls:
        lab.configure(urls, log=LOG)
        with running(lab) as daemon:
            daemon.until(lambda status: status["pools"][0]["stopped"] is not None, "the pool is stopped")
            browse(tmp_path, story)


def test_sixteen_replicas(lab: Lab, tmp_path: Path) -> None:
    """Each has its row, and the page stays one that can be read."""

    async def story(page: Page) -> None:
        await opened(page, daemon)
        assert await page.run("document.querySelectorAll('.replicas tbody tr').length") == 16
        await keep_pictures(page, "sixteen-replicas")
        assert page.complaints == []

    lab.land("claude_cli/more.jsonl", MORE)
    with hosted(*[SimSettings(time_scale=0.2)] * 16) as urls:
        lab.configure(urls, log=LOG)
        with running(lab) as daemon:
            daemon.until(lambda status: status["outcomes"]["scored"] > 0, "something is scored")
            browse(tmp_path, story)


EVIL = "<img src=x onerror=window.evil=1><script>window.evil=1</script><a href=javascript:window.evil=1>\u202e\x1b[31m</a>"


def _says_evil(head: bytes) -> tuple[int, str, bytes]:
    return 400, "application/json", json.dumps({"error": {"message": EVIL, "code": 400}}).encode()


@pytest.mark.parametrize("where", ["records and names", "a stopped pool"])
def test_what_others_wrote_stays_text(tmp_path: Path, where: str) -> None:
    """Markup in names, records, replies and what servers say is shown as it is spelt, and does nothing at all."""
    lab = Lab(tmp_path / "lab")
    name = EVIL.replace("/", "-")
    lab.land(f"{name}/{name}.jsonl", f"{EVIL}\n{EVIL}\n".encode())
    lab.land("claude_cli/a.jsonl", conversation(EVIL) * 5)
    answers: list[Answer] = [_says_evil] if where == "a stopped pool" else []

    async def story(page: Page) -> None:
        await opened(page, daemon)
        if answers:
            await page.until(f"{text('.todo')}.includes('is stopped')")
            assert "<script>window.evil=1" in await page.run(text(".stopped"))
        await page.until("document.querySelectorAll('.letters summary').length >= 2")
        await page.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert "<img src=x onerror=window.evil=1>" in await page.run(text(".letters"))
        assert "\u202e" not in await page.run(text("body"))
        assert await page.run("window.evil") is None
        assert (
            await page.run("document.querySelectorAll('img, a[href^=javascript], main script').length") == 0
        )
        assert {url.split("/")[2] for url in page.asked} == {daemon.address}
        assert page.complaints == page.dialogs == []
        await _try_to_run(page)

    with echoing(*answers) as servers, replicas(count=0 if answers else 1) as urls:
        lab.configure([*urls, *(server.url("") for server in servers)], log=LOG)
        with running(lab) as daemon:
            daemon.until(lambda status: len(status["letters"]) == 2, "the evil lines are dead letters")
            browse(tmp_path, story)


async def _try_to_run(page: Page) -> None:
    """Even a page that made markup of a string could not: the browser refuses, by the policy it was given."""
    for script in (
        "document.body.innerHTML = '<img src=x onerror=window.evil=1>'",
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.evil = 1'}))",
        "(0, eval)('window.evil = 1')",
        "document.body.setAttribute('onclick', 'window.evil = 1'), document.body.click()",
        "fetch('http://127.0.0.1:9/')",
    ):
        tried = await page.run(
            f"(async () => {{ try {{ await ({script}); return 'done' }} catch (e) {{ return e.name }} }})()"
        )
        assert tried != "done" or await page.run("window.evil") is None, script
    assert await page.run("window.evil") is None
    assert not [url for url in page.asked if url.startswith("http://127.0.0.1:9/")]


def test_with_a_token_the_page_works_once_it_is_given(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser asks for it, and sends it along for the scripts and the status too; without it nothing is shown."""
    token = "a-token-of-more-than-16/and:odd"
    monkeypatch.setenv("PAGE_TOKEN", token)

    async def story(page: Page) -> None:
        await page.open(f"http://{daemon.address}/")
        assert await page.run("document.getElementById('main')") is None
        await page.open(f"http://any:{quote(token, safe='')}@{daemon.address}/")
        await page.until(SHOWN)

    with replicas(count=1) as urls:
        lab.configure(urls, log=LOG, http={"token_env": "PAGE_TOKEN"})
        with running(lab) as daemon:
            browse(tmp_path, story)
