"""The image's recipe: pinned like the project, and its processes are nobody special."""

import re

from ray import __version__ as ray_version

from tests.helm.chart import CHART, ROOT, Manifest, cluster

RECIPE = (CHART.parent / "Containerfile").read_text()


def _pins(path: str) -> dict[str, str]:
    lines = [line for line in (ROOT / path).read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_what_the_image_has_beside_the_project_is_pinned_once() -> None:
    more = _pins("helm/constraints.txt")
    assert "aiohttp" in more
    assert not more.keys() & _pins("constraints.txt").keys()
    assert all(re.fullmatch(r"[A-Za-z0-9.+!]+", version) for version in more.values())


def test_the_recipe_copies_files_that_are_there() -> None:
    copied = [line.split()[1:-1] for line in RECIPE.splitlines() if line.startswith("COPY") and "--from" not in line]
    sources = {source for line in copied for source in line}
    assert {source for source in sources if not (ROOT / source).exists()} == {"dist/kuaka-*.whl"}


def test_the_images_user_is_not_root() -> None:
    assert re.findall(r"^USER (\S+)", RECIPE, re.MULTILINE) == ["64055:64055"]


def test_the_cluster_is_told_the_ray_that_the_image_has(rendered: dict[str, list[Manifest]]) -> None:
    assert cluster(rendered["minimal"])["rayVersion"] == ray_version == _pins("constraints.txt")["ray"]
