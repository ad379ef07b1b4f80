"""The demo where there is no QEMU: images with what the guests would hold, migrated file to file and compared."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.byte_amounts import show_bytes
from pipeline.demo.guest import FIRST_PAGE, GuestParameters, as_pages
from pipeline.demo.guest_model import filled_pages
from pipeline.demo.guests import map_ram
from pipeline.demo.options import DemoOptions
from pipeline.demo.place import DemoPlace, demo_place
from pipeline.demo.spec import DESTINATION_HOST, SOURCE_HOST, demo_spec
from pipeline.errors import ExitCode, UsageError
from pipeline.fleet.command import FinishedRun, run_spec
from pipeline.fleet.results import MigrationResult, Status
from pipeline.fleet.run import OnProgress
from pipeline.fleet.spec import ImageDestination, ImageSource, ImageVm
from pipeline.memory.pages import PAGE_BYTES

_CHUNK_PAGES = 2048


@dataclass(frozen=True, slots=True)
class DemoImage:
    """One image at both ends."""

    name: str
    source: Path
    destination: Path


def run_image_demo(options: DemoOptions, say: Callable[[str], None], on_progress: OnProgress) -> FinishedRun:
    """Run it to its end; every result says whether the image is identical. Raises `KuakaError`."""
    if options.zero_page_detection is not None:
        raise UsageError("--zero-page-detection: it is QEMU's, and there is no QEMU here: run `make setup`")
    with demo_place(2 * options.vms * options.memory_bytes) as place:
        say(
            f"no QEMU was found in PATH nor in .cache (`make setup` gets one): migrating {options.vms} memory images of"
            f" {show_bytes(options.memory_bytes)} instead of live guests"
        )
        images = [_image(number, place) for number in range(1, options.vms + 1)]
        for number, image in enumerate(images, 1):
            write_image(image.source, options.guest(number))
        spec = demo_spec(options, [_machine(options.weight(n), image) for n, image in enumerate(images, 1)])
        finished = run_spec(spec, workers=options.workers, on_progress=on_progress, say=say)
        by_name = {image.name: image for image in images}
        return replace(finished, results=[_compared(result, by_name[result.vm]) for result in finished.results])


def write_image(path: Path, parameters: GuestParameters) -> None:
    """The memory of a guest that has filled its pages and not dirtied any; low memory is zero."""
    with path.open("xb") as file:
        file.write(bytes(FIRST_PAGE * PAGE_BYTES))
        for first in range(FIRST_PAGE, parameters.block_pages, _CHUNK_PAGES):
            numbers = np.arange(first, min(first + _CHUNK_PAGES, parameters.block_pages))
            file.write(filled_pages(parameters, numbers).data)


def _image(number: int, place: DemoPlace) -> DemoImage:
    return DemoImage(f"demo-{number}", place.ram / f"source-{number}", place.ram / f"destination-{number}")


def _machine(weight: int, image: DemoImage) -> ImageVm:
    return ImageVm(
        name=image.name,
        kind="image",
        source=ImageSource(host=SOURCE_HOST, path=image.source),
        destination=ImageDestination(host=DESTINATION_HOST, path=image.destination),
        weight=weight,
    )


def _compared(result: MigrationResult, image: DemoImage) -> MigrationResult:
    if result.status is not Status.COMPLETED:
        return result
    wrong_pages = _wrong_pages(image)
    if not wrong_pages:
        return replace(result, verified=True, wrong_pages=0)
    error = f"{wrong_pages} pages are wrong"
    return replace(result, verified=False, wrong_pages=wrong_pages, error=error, exit_code=ExitCode.FAILED)


def _wrong_pages(image: DemoImage) -> int:
    source, destination = as_pages(map_ram(image.source)), as_pages(map_ram(image.destination))
    common = min(len(source), len(destination))
    wrong = abs(len(source) - len(destination))
    for first in range(0, common, _CHUNK_PAGES):
        rows = slice(first, min(first + _CHUNK_PAGES, common))
        wrong += int((source[rows] != destination[rows]).any(axis=1).sum())
    return wrong
