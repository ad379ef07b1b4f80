"""What images cost is measured on their own pages: contents and level count, files that cannot be read do not."""

import random
from pathlib import Path

from pipeline.codecs.codec import CodecId
from pipeline.fleet.page_samples import sampled_costs
from pipeline.fleet.plan.from_spec import DEFAULT_COSTS, Assumptions, CodecCost
from pipeline.fleet.plan.plan import Sightings, make_plan
from pipeline.fleet.spec import Spec
from tests.fleet.plan.specs import fleet, guest, image

HERE = [{"name": "a"}, {"name": "b"}]
MIB = 1 << 20


def spec_of(path: Path, **fields: object) -> Spec:
    return fleet(image("i") | {"source": {"host": "a", "path": str(path)}, **fields}, hosts=HERE)


def cost_of(path: Path, contents: bytes, **fields: object) -> CodecCost:
    path.write_bytes(contents)
    return sampled_costs(spec_of(path, **fields))["i"]


def test_wire_bytes_are_those_of_the_pages(tmp_path: Path) -> None:
    chance = random.Random(1).randbytes(2 * MIB)
    assert cost_of(tmp_path / "random", chance).wire_permille == 1000
    assert cost_of(tmp_path / "half", bytes(2 * MIB) + chance, codec="none").wire_permille == 500
    assert cost_of(tmp_path / "zero", bytes(4 * MIB)).wire_permille == 1
    text = b" ".join(str(number).encode() for number in range(400_000))[: 2 * MIB]
    assert 100 < cost_of(tmp_path / "text", text).wire_permille < 600


def test_a_higher_level_is_slower_and_nothing_is_faster_than_no_codec(tmp_path: Path) -> None:
    text = b" ".join(str(number).encode() for number in range(400_000))[: 2 * MIB]
    costs = [cost_of(tmp_path / "text", text, codec="zstd", level=level) for level in (1, 15)]
    none = cost_of(tmp_path / "text", text, codec="none")
    assert costs[1].encode_bytes_s < costs[0].encode_bytes_s / 2
    assert max(cost.encode_bytes_s for cost in costs) < none.encode_bytes_s
    # All of these pages are normal, of the table's six in ten.
    assert none.encode_bytes_s < DEFAULT_COSTS[CodecId.NONE].encode_bytes_s


def test_what_is_not_here_or_is_no_image_has_the_tables_cost(tmp_path: Path) -> None:
    away = fleet(image("away"), guest("live"), hosts=[{"name": "a", "node": "n1"}, {"name": "b"}])
    assert sampled_costs(away) == {}
    assert sampled_costs(spec_of(tmp_path / "nowhere")) == {}
    (tmp_path / "empty").touch()
    assert sampled_costs(spec_of(tmp_path / "empty")) == {}


def test_the_plan_takes_a_machines_own_cost_and_control_for_small_ones() -> None:
    spec = fleet(image("i", memory="1GiB"), hosts=HERE)
    slow = CodecCost(1000, 50_000_000, 50_000_000)
    assumptions = Assumptions(workers=2, local_cores=2)
    plain = make_plan(spec, None, assumptions).whole_s
    assert make_plan(spec, Sightings(costs={"i": slow}), assumptions).whole_s > 3 * plain
    # Two hundred of 4 KiB are all control: 35 ms each on two cores.
    tiny = fleet(*(image(f"i{number}", memory="4KiB") for number in range(200)), hosts=HERE)
    assert 3.5 <= make_plan(tiny, None, assumptions).whole_s <= 7
