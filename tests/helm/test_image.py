"""The image's recipe: pinned like the project, and its processes are nobody special."""

import re
from importlib import metadata

from ray import __version__ as ray_version

from tests.helm.chart import CHART, ROOT, Manifest, cluster

RECIPE = (CHART.parent / "Containerfile").read_text()


def test_the_recipe_copies_files_that_are_there() -> None:
    copied = [line.split()[1:-1] for line in RECIPE.splitlines() if line.startswith("COPY") and "--from" not in line]
    sources = {source for line in copied for source in line}
    assert {source for source in sources if not (ROOT / source).exists()} == {"dist/kuaka-*.whl"}


def test_everything_in_the_image_is_pinned_and_the_extra_is_the_projects() -> None:
    (install,) = re.findall(r"pip install .*", RECIPE)
    assert "-c /build/constraints.txt" in install
    (extra,) = re.findall(r"\[(\w+)\]", install)
    assert extra in (metadata.metadata("kuaka").get_all("Provides-Extra") or [])


def test_the_images_user_is_not_root() -> None:
    assert re.findall(r"^USER (\S+)", RECIPE, re.MULTILINE) == ["64055:64055"]


def test_the_cluster_is_told_the_ray_that_the_image_has(rendered: dict[str, list[Manifest]]) -> None:
    assert cluster(rendered["minimal"])["rayVersion"] == ray_version
