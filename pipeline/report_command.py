"""`kuaka report`: a fleet's page, as the controller, the journal or a command's JSON tell it, written whole or not."""

import logging
import sys
import time
from pathlib import Path

from pipeline.errors import ExitCode, UsageError
from pipeline.fleet.directories import state_directory
from pipeline.fleet.joined import joined_controller
from pipeline.report.sources import all_events, story_from_journal, story_from_json
from pipeline.report.story import Story, story_of_fleet
from pipeline.say import say
from pipeline.whole_file import write_whole

_STDOUT = "-"


def run_report(fleet: str | None, results: Path | None, output: Path, address: str, *, from_journal: bool) -> ExitCode:
    """Write the page. Raises `UsageError` for what cannot be, `KuakaError` for a file that cannot be written."""
    story = _story(fleet, results, address, from_journal=from_journal)
    # What it says of its cache of fonts is of no use to who wants a page.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # Only now: matplotlib takes half a second.
    from pipeline.report.page import page

    text = page(story)
    if str(output) == _STDOUT:
        sys.stdout.write(text)
    else:
        write_whole(output, text, "--output", ", or - for stdout")
        say(f"the report of {story.title} is in {output}")
    return ExitCode.OK


def _story(fleet: str | None, results: Path | None, address: str, *, from_journal: bool) -> Story:
    if (fleet is None) == (results is None):
        raise UsageError("report: name a fleet, or give results by --from FILE, one of both")
    if results is not None:
        if from_journal:
            raise UsageError("--journal: results that --from gives are in no journal; leave one of both out")
        return story_from_json(results)
    assert fleet is not None
    return story_from_journal(state_directory(), fleet) if from_journal else _from_controller(fleet, address)


def _from_controller(fleet: str, address: str) -> Story:
    with joined_controller(address) as controller:
        record = controller.record(fleet)
        (status,) = controller.status(fleet)
        return story_of_fleet(record, all_events(lambda after: controller.events(fleet, after)), status, time.time_ns())
