"""What is found on hosts of every kind, and what is said of trees that no kernel made."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery import Access, Inventory, Roots, discover, usable_qat, usable_queues
from scheduler.devices.discovery.attributes import MAX_PROBLEMS, Attributes
from scheduler.devices.discovery.inventory import IdxdDevice, Queue
from tests.scheduler.devices.discovery.recorded_trees import NEWER_THAN_5_16, Tree, changed, write

DSA, IAA, QAT = AcceleratorKind.DSA, AcceleratorKind.IAA, AcceleratorKind.QAT


def only_device(inventory: Inventory) -> IdxdDevice:
    (device,) = inventory.idxd
    return device


def first_queue(inventory: Inventory) -> Queue:
    return only_device(inventory).queues[0]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_sapphire_rapids_has_eight_devices_of_each_kind_on_two_nodes(server: Tree) -> None:
    inventory = discover(server.roots)
    assert [device.name for device in inventory.devices(DSA)] == [f"dsa{number}" for number in range(0, 16, 2)]
    assert [device.name for device in inventory.devices(IAA)] == [f"iax{number}" for number in range(1, 16, 2)]
    assert [device.numa_node for device in inventory.devices(IAA)] == [0] * 4 + [1] * 4
    assert [problem for device in inventory.idxd for problem in device.problems] == []
    dsa = inventory.devices(DSA)[0]
    assert (dsa.version, dsa.max_queues, dsa.max_entries, dsa.max_groups, dsa.max_engines) == (0x100, 8, 128, 4, 4)
    assert (dsa.max_batch, dsa.max_transfer_bytes, dsa.pasid_enabled) == (1024, 1 << 31, True)
    assert (len(dsa.queues), len(dsa.groups), len(dsa.engines)) == (8, 4, 4)
    assert [(queue.label, queue.slots, queue.priority) for queue in dsa.queues[:2]] == [
        ("crit", 16, 15),
        ("bulk", 112, 5),
    ]


def test_usable_queues_are_those_of_the_node_that_may_be_opened(server: Tree) -> None:
    inventory = discover(server.roots)
    assert [queue.name for queue in usable_queues(inventory, IAA, 1)] == ["wq9.0", "wq11.0", "wq13.0", "wq15.0"]
    assert len(usable_queues(inventory, DSA, None)) == 16
    assert usable_queues(inventory, DSA, 7) == ()
    assert usable_queues(inventory, QAT, None) == ()


def test_a_device_whose_node_is_unknown_serves_every_node(tree: Tree) -> None:
    tree.add_ready_device("iax1", numa_node="-1")
    assert [queue.name for queue in usable_queues(discover(tree.roots), IAA, 3)] == ["wq1.0"]


def test_a_machine_without_any_of_it_has_an_empty_inventory(tmp_path: Path) -> None:
    inventory = discover(Roots.below(tmp_path))
    assert (inventory.idxd, inventory.qat, inventory.host.kernel_version) == ((), (), None)
    assert not inventory.qatmgr.present


def test_queues_of_other_devices_are_not_a_devices_children(tree: Tree) -> None:
    device = tree.add_ready_device("dsa0")
    write(device / "wq2.0/state", "enabled\n")
    write(device / "wq0.0x/state", "enabled\n")
    assert [queue.name for queue in only_device(discover(tree.roots)).queues] == ["wq0.0", "wq0.1", "wq0.2"]


def test_disabled_device_keeps_its_queues_out(tree: Tree) -> None:
    tree.add_ready_device("iax1", state="disabled")
    assert first_queue(discover(tree.roots)).access is Access.DEVICE_DISABLED


def test_disabled_queue_is_out(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, state="disabled")
    assert first_queue(discover(tree.roots)).access is Access.QUEUE_DISABLED


def test_queue_of_the_kernel_is_out(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, type="kernel", driver_name="crypto")
    assert first_queue(discover(tree.roots)).access is Access.NOT_USER


def test_dedicated_queue_is_out_and_its_node_is_not_opened(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, mode="dedicated", threshold="0")
    opened: list[Path] = []
    assert first_queue(discover(tree.roots, opened.append)).access is Access.DEDICATED
    assert opened == []


def test_shared_queue_without_shared_virtual_memory_is_out(tree: Tree) -> None:
    tree.add_ready_device("iax1", pasid_enabled="0")
    assert first_queue(discover(tree.roots)).access is Access.NO_SVM


def test_queue_without_a_node_is_out(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, node=False)
    queue = first_queue(discover(tree.roots))
    assert (queue.access, queue.owner) == (Access.NO_NODE, None)


def test_a_file_in_the_nodes_place_is_no_device(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, node=False)
    write(tree.node("wq1.0", "iax"), "")
    assert first_queue(discover(tree.roots)).access is Access.NOT_A_DEVICE


@pytest.mark.parametrize(
    ("number", "access"),
    [
        (errno.EACCES, Access.NO_PERMISSION),
        # What the device cgroup of a container answers, whatever the node's mode is.
        (errno.EPERM, Access.NO_PERMISSION),
        (errno.EBUSY, Access.REFUSED),
        (errno.ENODEV, Access.REFUSED),
    ],
)
def test_the_kernels_answer_to_open_decides(tree: Tree, number: int, access: Access) -> None:
    tree.add_ready_device("iax1")

    def refuse(node: Path) -> None:
        raise OSError(number, os.strerror(number), str(node))

    queue = first_queue(discover(tree.roots, refuse))
    assert (queue.access, queue.access_detail) == (access, os.strerror(number))


def test_owner_and_mode_of_the_node_are_shown(tree: Tree) -> None:
    tree.add_ready_device("iax1")
    tree.node("wq1.0", "iax").chmod(0o640)
    owner = first_queue(discover(tree.roots)).owner
    assert owner is not None
    assert (owner.uid, owner.gid, owner.mode) == (os.getuid(), os.getgid(), 0o640)


def test_user_submissions_stop_at_the_threshold_not_at_the_size(tree: Tree) -> None:
    tree.add_device("dsa0")
    tree.set_queue("dsa0", 0, size="128", threshold="100")
    assert first_queue(discover(tree.roots)).slots == 100


def test_page_requests_disabled_override_block_on_fault(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, prs_disable="1")
    queue = first_queue(discover(tree.roots))
    assert (queue.block_on_fault, queue.waits_for_faults) == (True, False)


def test_kernel_without_optional_attributes_is_no_problem(tree: Tree) -> None:
    device = tree.add_ready_device("dsa0")
    for name in NEWER_THAN_5_16:
        for path in (device / name, *device.glob(f"wq*/{name}")):
            path.unlink(missing_ok=True)
    found = only_device(discover(tree.roots))
    assert (found.problems, found.queues[0].access, found.queues[0].driver) == ((), Access.OPEN, None)


def test_iaa_hides_batches_and_that_is_no_problem(tree: Tree) -> None:
    tree.add_ready_device("iax1")
    device = only_device(discover(tree.roots))
    assert (device.max_batch, device.queues[0].max_batch, device.problems) == (None, None, ())


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENXIO, errno.ENODEV])
def test_attribute_that_this_device_does_not_have_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_path: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("scheduler.devices.discovery.attributes.read_bounded", refuse)
    problems: list[str] = []
    assert Attributes(tmp_path, "wq0.0", problems).whole("occupancy", 0, 128) is None
    assert problems == []


def test_unreadable_attribute_is_a_problem_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> bytes:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("scheduler.devices.discovery.attributes.read_bounded", refuse)
    problems: list[str] = []
    assert Attributes(tmp_path, "wq0.0", problems).whole("size", 0, 128) is None
    assert problems == ["wq0.0: size cannot be read: Permission denied"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("9" * 4000, "is not a whole number"),
        ("99999999999999999999", "is not within 0 to 65536"),
        ("-1", "is not within 0 to 65536"),
        ("", "'' is not a whole number"),
        ("0x", "is not a whole number"),
        ("12 ", None),
        ("0x10", None),
    ],
)
def test_sizes_that_cannot_be_are_none_and_said(tree: Tree, value: str, problem: str | None) -> None:
    tree.add_device("dsa0")
    tree.set_queue("dsa0", 0, size=value)
    device = only_device(discover(tree.roots))
    if problem is None:
        assert (device.queues[0].size, device.problems) == (int(value, 0), ())
    else:
        (said,) = device.problems
        assert said.startswith("wq0.0: size ")
        assert problem in said
        assert len(said) < 120
        assert device.queues[0].slots == 0


def test_binary_junk_is_no_text(tree: Tree) -> None:
    directory = tree.add_ready_device("dsa0")
    (directory / "state").write_bytes(b"\xff\x00\xfe")
    device = only_device(discover(tree.roots))
    assert (device.state, device.problems) == (None, ("dsa0: state is no text",))
    assert device.queues[0].access is Access.UNKNOWN


def test_names_cannot_write_to_the_terminal(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, name="\x1b[2Jx")
    assert first_queue(discover(tree.roots)).label == "?[2Jx"


def test_pipe_in_an_attributes_place_is_not_waited_for(tree: Tree) -> None:
    directory = tree.add_ready_device("dsa0")
    (directory / "state").unlink()
    os.mkfifo(directory / "state")
    assert only_device(discover(tree.roots)).problems == ("dsa0: state cannot be read: is not a plain file",)


def test_links_that_lead_to_themselves_are_a_problem(tree: Tree) -> None:
    bus = tree.roots.sysfs / "bus/dsa/devices"
    bus.mkdir(parents=True)
    (bus / "dsa0").symlink_to("dsa0")
    directory = tree.add_ready_device("iax1")
    (directory / "state").unlink()
    (directory / "state").symlink_to("state")
    dsa, iaa = discover(tree.roots).idxd
    assert dsa.problems[0] == "dsa0: state cannot be read: Too many levels of symbolic links"
    assert (dsa.queues, iaa.state) == ((), None)


def test_missing_state_is_said(tree: Tree) -> None:
    directory = tree.add_ready_device("iax1")
    (directory / "state").unlink()
    assert only_device(discover(tree.roots)).problems == ("iax1: state is not there",)


def test_problems_of_one_device_have_an_end(tree: Tree) -> None:
    directory = tree.add_device("dsa0")
    for path in directory.glob("wq*/*"):
        path.write_text("junk\n")
    assert len(only_device(discover(tree.roots)).problems) == MAX_PROBLEMS


@pytest.fixture(scope="module")
def shared_tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """One tree for all examples, each of which puts it back."""
    tree = Tree(tmp_path_factory.mktemp("tree"))
    tree.add_ready_device("dsa0")
    tree.add_qat("0000:6b:00.0")
    tree.add_qatmgr()
    return tree


@settings(max_examples=60)
@given(st.data())
def test_no_tree_makes_discovery_fail(shared_tree: Tree, data: st.DataObject) -> None:
    files = sorted(path for path in shared_tree.directory.rglob("*") if path.is_file())
    contents = st.binary(max_size=40) | st.from_regex(rb"\A-?(0x)?[0-9a-f]{0,30}\n?\Z")
    with changed(data.draw(st.dictionaries(st.sampled_from(files), contents, min_size=1, max_size=20))):
        inventory = discover(shared_tree.roots)
    assert all(problem.isprintable() for device in inventory.idxd for problem in device.problems)
    for queue in usable_queues(inventory, DSA, None):
        assert 0 <= queue.slots <= 65_536


def test_qat_has_state_services_functions_and_policy(tree: Tree) -> None:
    tree.add_qat("0000:6b:00.0", services="sym;dc")
    tree.add_qatmgr(policy="2")
    inventory = discover(tree.roots)
    (device,) = inventory.qat
    assert (device.driver, device.state, device.services, device.functions) == ("4xxx", "up", ("sym", "dc"), 16)
    assert (inventory.qatmgr.present, inventory.qatmgr.permitted, inventory.qatmgr.policy) == (True, True, 2)
    assert usable_qat(inventory, 0) == (device,)


@pytest.mark.parametrize(("state", "services"), [("down", "dc"), ("up", "sym;asym"), ("up", "dcx")])
def test_qat_that_is_down_or_only_encrypts_is_not_usable(tree: Tree, state: str, services: str) -> None:
    tree.add_qat("0000:6b:00.0", state=state, services=services)
    tree.add_qatmgr()
    assert usable_qat(discover(tree.roots), None) == ()


def test_qat_without_its_daemon_is_not_usable(tree: Tree) -> None:
    tree.add_qat("0000:6b:00.0")
    assert usable_qat(discover(tree.roots), None) == ()


def test_policy_that_is_no_number_is_said(tree: Tree) -> None:
    tree.add_qatmgr(policy="many")
    assert discover(tree.roots).qatmgr.problems == ("qatmgr: POLICY of sysconfig/qat is 'many', not 0 to 4096",)


def test_accelerators_that_no_driver_holds_are_told_from_others(tree: Tree) -> None:
    tree.add_pci("0000:6a:01.0", "0x0b25")
    tree.add_pci("0000:6a:02.0", "0x0cfe", driver="idxd")
    tree.add_pci("0000:6b:00.0", "0x4940")
    tree.add_pci("0000:00:1f.0", "0x1234")
    assert discover(tree.roots).host.unbound == ((DSA, "0000:6a:01.0"), (QAT, "0000:6b:00.0"))


@pytest.mark.parametrize(
    ("command_line", "on", "scalable"),
    [
        ("intel_iommu=on,sm_on", True, True),
        ("intel_iommu=sm_on,on", True, True),
        ("intel_iommu=on quiet intel_iommu=sm_on", True, True),
        ("intel_iommu=on", True, False),
        ("amd_iommu=on,sm_on", False, False),
    ],
)
def test_iommu_settings_come_from_the_kernels_command_line(
    tree: Tree, command_line: str, on: bool, scalable: bool
) -> None:
    tree.command_line(command_line)
    host = discover(tree.roots).host
    assert (host.iommu_on, host.scalable_mode) == (on, scalable)


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.9.1", (6, 9, 1)), ("6.10-rc1", (6, 10, 0)), ("6.12.48+deb13-amd64", (6, 12, 48)), ("junk", None)],
)
def test_kernel_versions_are_read(tree: Tree, release: str, version: tuple[int, int, int] | None) -> None:
    tree.kernel(release)
    assert discover(tree.roots).host.kernel_version == version


@pytest.mark.parametrize(("effective", "may"), [(0, False), (1 << 17, True), ((1 << 41) - 1, True), (1 << 16, False)])
def test_portals_may_be_mapped_with_cap_sys_rawio_only(tree: Tree, effective: int, may: bool) -> None:
    tree.capabilities(effective)
    assert discover(tree.roots).host.may_map_portals is may
