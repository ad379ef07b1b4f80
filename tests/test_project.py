"""The project's own rules: what ships, what is pinned, which way imports run."""

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pipeline
from tests.needs import need

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "scheduler")

# The only modules that may import ray: thin shells that turn messages into events and effects into calls.
RAY_SHELLS = {
    "pipeline/cli.py",
    "pipeline/fleet/agent_handle.py",
    "pipeline/fleet/cluster.py",
    "pipeline/fleet/controller_actor.py",
    "pipeline/ray_jobs.py",
    "scheduler/actor.py",
}

# Imports run one way: cli -> api -> fleet -> qemu, memory.image -> shard -> wire, codecs, memory.
OUT_OF_REACH = {
    "scheduler": ("pipeline",),
    "pipeline/codecs": ("pipeline.cli", "pipeline.demo", "pipeline.fleet", "pipeline.qemu", "pipeline.shard"),
    "pipeline/wire": ("pipeline.cli", "pipeline.demo", "pipeline.fleet", "pipeline.qemu", "pipeline.shard"),
    "pipeline/memory": ("pipeline.cli", "pipeline.demo", "pipeline.fleet", "pipeline.qemu"),
    "pipeline/shard.py": ("pipeline.cli", "pipeline.demo", "pipeline.fleet", "pipeline.qemu", "pipeline.memory.image"),
    "pipeline/qemu": ("pipeline.cli", "pipeline.demo", "pipeline.fleet"),
    "pipeline/fleet": ("pipeline.cli", "pipeline.api", "pipeline.submission"),
}


def _modules(under: str) -> Iterator[Path]:
    path = ROOT / under
    return iter([path]) if path.is_file() else path.rglob("*.py")


def _imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _requirements_in_force(distribution: str, extras: frozenset[str]) -> Iterator[Requirement]:
    for line in metadata.requires(distribution) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def _everything_installed_for(distribution: str, *extras: str) -> set[str]:
    """Return the canonical names of all that ``distribution[extras]`` pulls in, transitively."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    open_ends = [(distribution, frozenset(extras))]
    while open_ends:
        end = open_ends.pop()
        if end in seen:
            continue
        seen.add(end)
        for requirement in _requirements_in_force(*end):
            found.add(canonicalize_name(requirement.name))
            open_ends.append((requirement.name, frozenset(requirement.extras)))
    return found


def _constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _tracked_files() -> list[Path]:
    listing = subprocess.run(
        [need("git"), "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def _anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE) if page.suffix == ".md" else []
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_version_is_that_of_the_package() -> None:
    assert metadata.version("kuaka") == pipeline.__version__


def test_wheel_carries_both_packages_typed_with_their_data_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("/entry_points.txt"))
    shipped = {str(path.relative_to(ROOT)) for path in _tracked_files()}
    assert {name for name in shipped if name.startswith(("pipeline/", "scheduler/"))} <= names
    assert {"pipeline/py.typed", "scheduler/py.typed"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {*PACKAGES, f"kuaka-{pipeline.__version__}.dist-info"}
    assert "kuaka = pipeline.cli:main" in entry_points


def test_constraints_are_exact_pins_and_name_no_source() -> None:
    assert [line for line in _constraints() if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


def test_constraints_pin_every_package_that_is_installed_for_us() -> None:
    pins: dict[str, str] = {}
    for line in _constraints():
        name, version = line.split("==")
        pins[canonicalize_name(name)] = version
    for needed in _everything_installed_for("kuaka", "dev"):
        assert pins.get(needed) == metadata.version(needed), needed


def test_tracked_files_name_no_registry_host_and_hold_no_lock_file() -> None:
    url = re.compile(rb"https?://[^/\s]*(pypi|pythonhosted|npmjs|debian)")
    tracked = _tracked_files()
    assert [str(path) for path in tracked if url.search(path.read_bytes())] == []
    assert [str(path) for path in tracked if path.name in ("uv.lock", "poetry.lock")] == []


def test_ray_is_imported_by_the_shells_only() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in _modules(package)
        if any(_is_in(module, "ray") for module in _imports(ast.walk(_syntax(path))))
    }
    assert importers <= RAY_SHELLS


def test_command_line_imports_ray_lazily() -> None:
    at_module_level = [module for path in _modules("pipeline/cli.py") for module in _imports(iter(_syntax(path).body))]
    assert not [module for module in at_module_level if _is_in(module, "ray")]


@pytest.mark.parametrize("room", OUT_OF_REACH)
def test_imports_run_one_way(room: str) -> None:
    strays = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in _modules(room)
        for module in _imports(ast.walk(_syntax(path)))
        if any(_is_in(module, other) for other in OUT_OF_REACH[room])
    }
    assert strays == set()


@pytest.mark.parametrize(
    ("file_name", "text"),
    [
        ("sources.list", "deb http://mirror.example/debian bookworm main\ndeb http://other.example/x stable main\n"),
        (
            "sources.list.d/machine.sources",
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n",
        ),
    ],
)
def test_qemu_comes_from_the_mirror_that_the_machine_uses(tmp_path: Path, file_name: str, text: str) -> None:
    need("apt-get")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / file_name).write_text(text)
    configuration = tmp_path / "apt.conf"
    configuration.write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "{tmp_path}/sources.list.d";\n'
        f'Dir::State "{tmp_path}";\nDir::Cache "{tmp_path}";\n'
    )
    mirrors = subprocess.run(
        [ROOT / ".ci/qemu.sh", "--mirrors"],
        env={"PATH": "/usr/bin:/bin", "APT_CONFIG": str(configuration)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert mirrors == "http://mirror.example/debian\n"


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: str(page.name)
)
def test_every_relative_link_of_the_docs_leads_to_a_file_that_ships(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    local = [target.partition("#") for target in targets if not re.match(r"[a-z]+:", target)]
    files = set(_tracked_files())
    places = files | {parent for file in files for parent in file.parents}
    assert [target for target, _, _ in local if target and (page.parent / target).resolve() not in places] == []
    anchors = {name: _anchors((page.parent / name).resolve() if name else page) for name, _, _ in local}
    assert [anchor for name, _, anchor in local if anchor and anchor not in anchors[name]] == []


@pytest.mark.qemu
def test_both_qemus_are_of_the_versions_they_are_taken_for(qemu_72: Path, qemu_100: Path) -> None:
    assert qemu_72 != qemu_100


def test_a_missing_tool_is_a_failure_in_ci_and_a_skip_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool"):
        need("no-such-tool")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no-such-tool"):
        need("no-such-tool")
