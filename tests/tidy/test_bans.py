"""What must not stand in the code: swallowed bugs and cancellations, stray tasks, lossy readers, hidden inputs."""

import ast
from collections.abc import Iterator

from tests.tidy.tree import Module, modules, modules_of_tests

TASK_GROUP = "asyncio.TaskGroup"
ENVIRONMENT_READERS = {
    "daemon/lake.py": "the failpoint of tests",
    "daemon/notify.py": "systemd's socket and watchdog",
    "daemon/secrets.py": "secrets and the folder of credentials",
}
WAITING_TESTS = {
    "unit/daemon/test_shutdown.py": "a timer that was left behind would fire",
    "contract/test_replica_streaming.py": "the server paces its stream, which is what is tested",
    "contract/test_replica_vllm.py": "a server that closes late is told from one that closes at once",
}
UNBOUNDED = {
    f"asyncio.{name}"
    for name in ("Queue", "LifoQueue", "PriorityQueue", "ensure_future", "gather", "to_thread")
}


def _handlers(module: Module) -> Iterator[tuple[ast.ExceptHandler, set[str]]]:
    """Every `except`, with the last parts of the names it catches; a bare one catches `BaseException`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = [ast.Name("BaseException")] if node.type is None else ast.walk(node.type)
            yield (
                node,
                {
                    one.attr if isinstance(one, ast.Attribute) else one.id
                    for one in caught
                    if isinstance(one, ast.Attribute | ast.Name)
                },
            )


def test_no_handler_catches_bugs() -> None:
    """`except Exception` would turn a bug into a wrong score: handlers name what the library raises."""
    found = [
        f"{module.name}:{handler.lineno}"
        for module in modules()
        for handler, caught in _handlers(module)
        if "Exception" in caught
    ]
    assert not found


def test_whoever_catches_everything_raises_it_again() -> None:
    """A cancellation that is swallowed once is lost: asyncio delivers it once."""
    found = [
        f"{module.name}:{handler.lineno}"
        for module in modules()
        for handler, caught in _handlers(module)
        if caught & {"BaseException", "CancelledError"}
        and not any(isinstance(one, ast.Raise) and one.exc is None for one in handler.body)
    ]
    assert not found


def test_nothing_suppresses_a_cancellation() -> None:
    """Nor does `suppress` swallow one."""
    found = [
        f"{module.name}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("suppress")
        and any(
            "CancelledError" in ast.unparse(arg) or "BaseException" in ast.unparse(arg) for arg in node.args
        )
    ]
    assert not found


def _task_groups(module: Module) -> set[str]:
    """Names that are bound to a task group: by `async with`, or as a parameter."""
    opened = {
        ast.unparse(item.optional_vars)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if item.optional_vars is not None and ast.unparse(item.context_expr) == f"{TASK_GROUP}()"
    }
    given = {
        node.arg
        for node in ast.walk(module.tree)
        if isinstance(node, ast.arg) and node.annotation and ast.unparse(node.annotation) == TASK_GROUP
    }
    return opened | given


def test_every_task_belongs_to_a_group() -> None:
    """One tree of tasks: whoever starts one waits for it and hears of its errors."""
    found = [
        f"{module.name}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "create_task"
        and ast.unparse(node.value) not in _task_groups(module)
    ]
    assert not found


def test_nothing_is_unbounded() -> None:
    """No queue without a bound, no task outside a group, no thread of an executor that nobody owns."""
    found = [
        f"{module.name}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in UNBOUNDED)
        or (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(".run_in_executor")
            and ast.unparse(node.args[0]) == "None"
        )
    ]
    assert not found


def _imports(module: Module) -> Iterator[tuple[str, str]]:
    """Every import as (the module it is from, the name it gives): `import x as y` gives (x, y)."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.asname or alias.name) for alias in node.names)


def test_the_source_never_decompresses_in_a_way_that_loses_data() -> None:
    """`stream_reader`, `zstandard` and a module's one-shot `decompress` stop in silence after the first frame."""
    found = []
    for module in modules():
        if module.room != "source":
            continue
        imports = list(_imports(module))
        one_shot = {f"{name}.decompress" for _, name in imports}
        lossy = [name for origin, name in imports if origin == "zstandard" or name == "decompress"]
        lossy += [
            ast.unparse(node)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute)
            and (node.attr == "stream_reader" or ast.unparse(node) in one_shot)
        ]
        found += [f"{module.name}: {name}" for name in lossy]
    assert not found


def test_the_environment_is_read_in_three_places() -> None:
    """Everything else comes from the configuration file, so that `check` sees what `run` will do."""
    readers = {
        module.name
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
    }
    assert readers == set(ENVIRONMENT_READERS)


def test_tests_do_not_sleep() -> None:
    """A sleep is a race that the slow machine loses; `sleep(0)` only lets others run."""
    found = {
        module.name
        for module in modules_of_tests()
        for call in ast.walk(module.tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("asyncio.sleep", "time.sleep")
        and ast.unparse(call.args[0]) != "0"
        and not module.name.startswith("e2e/")  # looks at other processes, again and again
    }
    assert found == set(WAITING_TESTS)


def test_tests_have_fakes_and_no_mocks() -> None:
    """A fake passes the contract suite of its port; a mock passes whatever it was told."""
    found = {
        module.name
        for module in modules_of_tests()
        for origin, name in _imports(module)
        if "mock" in (*origin.split("."), name)
    }
    assert not found
