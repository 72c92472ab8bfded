"""The wheel carries everything the package needs, and works where only the wheel is."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_wheel_carries_the_anchors_and_works_alone(tmp_path: Path) -> None:
    """Rubrics, groups, demo stories and the type marker are inside, found through importlib.resources."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("mira_stream-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    data = "mira_stream/anchor_data"
    assert {
        f"{data}/groups.toml",
        f"{data}/agent/group_A_dim_anchors.jsonl",
        f"{data}/README.md",
        "mira_stream/demo/samples/stories.toml",
        *(f"mira_stream/daemon/page/{file.name}" for file in (ROOT / "mira_stream/daemon/page").iterdir()),
        "mira_stream/py.typed",
    } <= names
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mira_stream; assert sys.argv[1] in mira_stream.__file__;"
        "from mira_stream.daemon.anchors import load_groups, load_rubric;"
        "print(len(load_rubric(load_groups(None)['agent/A'], None).criteria))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert told.stdout.strip() == "15"
