"""The house rules that a program can check: who imports whom, and how long things are."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import tierfs

PACKAGE = Path(tierfs.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

#: Rooms from the ground up. mount and admin share a floor and do not know each other; what wires is above.
FLOORS = {
    "core": 0,
    "stores": 1,
    "engine": 2,
    "mount": 3,
    "admin": 3,
    "cold.py": 3,
    "offline.py": 4,
    "wiring.py": 4,
    "doctor": 4,
    "serving.py": 5,
    "worker.py": 6,
    "cli": 7,
}

#: Libraries that one place alone may know.
KEEPERS = {
    "boto3": {"stores/s3*.py"},
    "botocore": {"stores/s3*.py"},
    "diskcache": {"stores/cache_database.py"},
    "sqlite3": {"stores/catalog*.py"},
    "pyfuse3": {"mount/fuse.py"},
    "click": {"cli/*.py"},
    "rich": {"cli/*.py"},
    "starlette": {"admin/*.py"},
    "fastapi": {"admin/rest*.py", "admin/page.py", "admin/swagger.py"},
    "hypercorn": {"admin/*.py"},
    "httpx": {"admin/*.py"},
    "prometheus_client": {"admin/metrics*.py"},
}

#: The pure room: the time is an argument, nothing waits, nothing is logged.
IMPURE = {"trio", "os", "time", "threading", "logging", "socket", "subprocess", "sqlite3", "pathlib", "shutil"}

#: What survives every crash has to be small: the standard library and the errors.
AUSTERE = {
    f"mount/{name}.py" for name in ("supervisor", "workers", "belongings", "notify", "channel", "kernel", "probe")
}

#: The process that blocks in threads has no use for an event loop, nor for its memory.
THREADED = "cold.py"

LONGEST_MODULE = 400
LONGEST_FUNCTION = 50
MOST_PARAMETERS = 5


@cache
def parse(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(), module)


def imports_of(module: str) -> Iterator[str]:
    """Full names of what a module imports, wherever in it the import stands."""
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def own_imports_of(module: str) -> set[str]:
    """The modules of tierfs that a module imports, as paths."""
    found = set()
    for name in imports_of(module):
        parts = name.split(".")
        if parts[0] == "tierfs":
            for depth in range(len(parts), 0, -1):
                path = "/".join(parts[1:depth])
                if f"{path}.py" in MODULES:
                    found.add(f"{path}.py")
                    break
    return found


def room_of(module: str) -> str:
    return module.split("/")[0]


def is_kept_by(module: str, patterns: set[str]) -> bool:
    return any(Path(module).match(pattern) for pattern in patterns)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    here = FLOORS.get(room_of(module))
    if here is None:
        assert module in ("__init__.py", "__main__.py"), f"{module} is in no room"
        return
    for other in own_imports_of(module):
        room = room_of(other)
        assert room == room_of(module) or FLOORS[room] < here, f"{module} imports {other}"


def test_the_cold_process_does_not_load_an_event_loop() -> None:
    reached, waiting = {THREADED}, [THREADED]
    while waiting:
        new = own_imports_of(waiting.pop()) - reached
        reached |= new
        waiting.extend(new)
    assert {module for module in reached if "trio" in {name.split(".")[0] for name in imports_of(module)}} == set()


def test_nothing_imports_in_circles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(own_imports_of(module)):
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("library", KEEPERS)
def test_a_library_has_one_keeper(library: str) -> None:
    users = [module for module in MODULES if library in {name.split(".")[0] for name in imports_of(module)}]
    assert [module for module in users if not is_kept_by(module, KEEPERS[library])] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("core/")])
def test_the_core_is_pure(module: str) -> None:
    assert not {name.split(".")[0] for name in imports_of(module)} & IMPURE


@pytest.mark.parametrize("module", sorted(AUSTERE))
def test_what_survives_is_austere(module: str) -> None:
    others = {name for name in imports_of(module) if name.split(".")[0] not in sys.stdlib_module_names}
    assert own_imports_of(module) <= AUSTERE | {"core/errors.py"}
    assert {name.split(".")[0] for name in others} <= {"tierfs"}


def test_fuse_can_be_deleted() -> None:
    users = {module for module in MODULES if "mount/fuse.py" in own_imports_of(module)}
    assert users == {"wiring.py", "serving.py"}


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_short(module: str) -> None:
    assert (PACKAGE / module).read_text().count("\n") <= LONGEST_MODULE


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module: str) -> None:
    functions = [n for n in ast.walk(parse(module)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= LONGEST_FUNCTION, f"{function.name} has {lines} lines"


@pytest.mark.parametrize("module", MODULES)
def test_constructors_ask_for_little(module: str) -> None:
    for cls in (node for node in ast.walk(parse(module)) if isinstance(node, ast.ClassDef)):
        for function in cls.body:
            if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                parameters = [a.arg for a in function.args.args + function.args.kwonlyargs]
                assert len(parameters) - 1 <= MOST_PARAMETERS, f"{cls.name}: {parameters}"


@pytest.mark.parametrize("module", MODULES)
def test_names_say_something(module: str) -> None:
    assert not set(module.removesuffix(".py").split("/")) & {"util", "utils", "helpers", "common", "manager", "misc"}
