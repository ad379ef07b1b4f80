"""Each thing that keeps a device from use, or makes it worth less, is one finding with its remedy."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.units import AcceleratorKind
from scheduler.devices.discovery import discover
from scheduler.devices.discovery.check import Circumstances, SubmissionCost, check
from scheduler.devices.discovery.findings import Finding, Report, Weight
from tests.scheduler.devices.discovery.recorded_trees import Tree, changed

DSA, IAA, QAT = AcceleratorKind.DSA, AcceleratorKind.IAA, AcceleratorKind.QAT
EVERYTHING = (DSA, IAA, QAT)
INSTALLED = Circumstances(lambda name: f"lib{name}.so.1")


def checked(tree: Tree, *kinds: AcceleratorKind, circumstances: Circumstances = INSTALLED) -> Report:
    return check(discover(tree.roots), circumstances, kinds or EVERYTHING)


def only(report: Report, code: str) -> Finding:
    (finding,) = (finding for finding in report.findings if finding.code == code)
    return finding


def codes(report: Report) -> list[str]:
    return [finding.code for finding in report.findings]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_planned_iaa_and_qat_have_nothing_to_say(tree: Tree) -> None:
    tree.add_ready_device("iax1")
    tree.add_qat("0000:6b:00.0")
    tree.add_qatmgr()
    report = checked(tree, IAA, QAT)
    assert (report.usable, report.findings) == ({IAA: True, QAT: True}, ())


def test_machine_without_any_says_so_in_one_line(tree: Tree) -> None:
    report = checked(tree)
    (finding,) = report.findings
    assert (finding.code, finding.weight, finding.kind) == ("no-hardware", Weight.BLOCKS, None)
    assert finding.line.startswith("this host: no device (dsa, iaa, qat) is here: nothing to do, the CPU does the work")
    assert report.usable == dict.fromkeys(EVERYTHING, False)


def test_kinds_that_are_missing_beside_others_are_named(tree: Tree) -> None:
    tree.add_ready_device("iax1")
    report = checked(tree)
    assert [(finding.code, finding.kind) for finding in report.findings] == [("no-hardware", DSA), ("no-hardware", QAT)]
    assert report.usable == {DSA: False, IAA: True, QAT: False}


def test_write_submission_of_batches_is_refused_so_a_dsa_scan_costs_more_than_numpy(tree: Tree) -> None:
    tree.add_ready_device("dsa0")
    report = checked(tree, DSA)
    finding = only(report, "submission-path")
    assert (finding.weight, report.usable) == (Weight.COSTS, {DSA: True})
    assert finding.what.startswith(
        "a zero scan of 128 pages costs the caller 70 us by write(2), without BATCH, and 17 us"
    )


@pytest.mark.parametrize(("descriptor_ns", "said"), [(132, False), (133, True)])
def test_measured_submission_cost_decides_about_the_path(tree: Tree, descriptor_ns: int, said: bool) -> None:
    tree.add_ready_device("dsa0")
    measured = Circumstances(INSTALLED.find_library, submission=SubmissionCost(descriptor_ns))
    assert ("submission-path" in codes(checked(tree, DSA, circumstances=measured))) is said


@pytest.mark.parametrize(
    ("release", "said"), [("6.9.0", True), ("6.9.1", False), ("6.10", False), ("5.14.0-427.el9", True), ("", True)]
)
def test_kernel_without_write_submission_is_said_for_dsa(tree: Tree, release: str, said: bool) -> None:
    tree.kernel(release)
    tree.add_ready_device("dsa0")
    tree.add_ready_device("iax1")
    assert ("kernel" in codes(checked(tree, DSA))) is said
    assert codes(checked(tree, IAA)) == []


@pytest.mark.parametrize(
    ("command_line", "remedy"),
    [("quiet", "boot with intel_iommu=on,sm_on"), ("intel_iommu=on,sm_on", "enable VT-d in the firmware")],
)
def test_without_shared_virtual_memory_no_user_queue_works(tree: Tree, command_line: str, remedy: str) -> None:
    tree.command_line(command_line)
    tree.add_ready_device("iax1", pasid_enabled="0")
    report = checked(tree, IAA)
    (finding,) = report.findings
    assert (finding.code, finding.weight, finding.remedy) == ("no-svm", Weight.BLOCKS, remedy)
    assert report.usable == {IAA: False}


def test_dedicated_queue_blocks_and_the_plan_is_its_remedy(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, mode="dedicated", threshold="0")
    finding = only(checked(tree, IAA), "dedicated")
    assert finding.weight is Weight.BLOCKS
    assert "kuaka devices plan" in finding.remedy


def test_dedicated_queue_beside_a_shared_one_only_costs(tree: Tree) -> None:
    tree.add_ready_device("iax1")
    tree.set_queue("iax1", 1, mode="dedicated", threshold="0", size="16")
    report = checked(tree, IAA)
    assert (only(report, "dedicated").weight, report.usable) == (Weight.COSTS, {IAA: True})


def test_queue_of_the_kernel_is_said(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, type="kernel")
    assert only(checked(tree, IAA), "not-user").weight is Weight.BLOCKS


def test_disabled_device_and_disabled_queue_are_said_once_each(tree: Tree) -> None:
    tree.add_ready_device("iax1", state="disabled")
    tree.add_device("iax3")
    tree.set_queue("iax3", 0, state="disabled")
    assert codes(checked(tree, IAA)) == ["device-disabled", "queue-disabled"]


def test_fresh_device_has_no_queue(tree: Tree) -> None:
    tree.add_device("iax1")
    (finding,) = checked(tree, IAA).findings
    assert (finding.code, finding.where, finding.weight) == ("no-queue", ("iax1",), Weight.BLOCKS)


def test_missing_permission_is_one_line_for_all_queues_of_a_kind(server: Tree) -> None:
    def refuse(node: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(node))

    report = check(discover(server.roots, refuse), INSTALLED, (IAA,))
    (finding,) = report.findings
    assert (finding.code, finding.weight, len(finding.where)) == ("permission", Weight.BLOCKS, 8)
    assert finding.line.startswith("wq1.0, wq3.0, wq5.0, wq7.0 and 4 more: this process may not open its node: install")


def test_node_that_is_not_given_to_a_container_is_said(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, node=False)
    assert only(checked(tree, IAA), "no-node").remedy.endswith("a container must be given the node")


def test_node_that_is_refused_says_the_kernels_words(tree: Tree) -> None:
    tree.add_ready_device("iax1")

    def refuse(node: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(node))

    report = check(discover(tree.roots, refuse), INSTALLED, (IAA,))
    assert only(report, "refused").what == "its node cannot be opened: Device or resource busy"


@pytest.mark.parametrize(
    ("threshold", "code", "usable"),
    [("100", "threshold", True), ("200", "threshold", True), ("0", "no-entries", False), ("128", None, True)],
)
def test_threshold_that_differs_from_the_size_is_said(
    tree: Tree, threshold: str, code: str | None, usable: bool
) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, threshold=threshold)
    report = checked(tree, IAA)
    assert (codes(report), report.usable) == ([code] if code else [], {IAA: usable})


@pytest.mark.parametrize(
    ("clients", "ours", "said"), [("3", 1, True), ("1", 1, False), ("1", 0, True), ("0", 0, False)]
)
def test_queue_that_others_have_open_is_said(tree: Tree, clients: str, ours: int, said: bool) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, clients=clients)
    circumstances = Circumstances(INSTALLED.find_library, {"wq1.0": ours})
    assert ("shared" in codes(checked(tree, IAA, circumstances=circumstances))) is said


def test_several_iaa_queues_are_said_because_libqpl_uses_all_of_them(tree: Tree) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, size="16", threshold="16")
    tree.set_queue("iax1", 1, size="112", threshold="112")
    assert only(checked(tree, IAA), "several-queues").where == ("iax1",)


@pytest.mark.parametrize("values", [{"block_on_fault": "0"}, {"prs_disable": "1"}])
def test_queue_that_does_not_wait_for_faults_is_said(tree: Tree, values: dict[str, str]) -> None:
    tree.add_device("iax1")
    tree.set_queue("iax1", 0, **values)
    assert codes(checked(tree, IAA)) == ["faults"]


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("qpl", "libqpl: the library was not found: install it"),
        ("accel-config", "libaccel-config: the library was not found: install it"),
    ],
)
def test_missing_library_keeps_iaa_from_use(tree: Tree, missing: str, line: str) -> None:
    tree.add_ready_device("iax1")
    found = Circumstances(lambda name: None if name == missing else name)
    report = checked(tree, IAA, circumstances=found)
    (finding,) = report.findings
    assert finding.line.startswith(line)
    assert (finding.weight, report.usable, report.libraries[missing]) == (Weight.BLOCKS, {IAA: False}, None)


def test_dsa_needs_no_library(tree: Tree) -> None:
    tree.add_ready_device("dsa0")
    report = checked(tree, DSA, circumstances=Circumstances(lambda name: None))
    assert (report.usable, report.libraries) == ({DSA: True}, {})


def test_device_that_no_driver_holds_names_the_module(tree: Tree) -> None:
    tree.add_pci("0000:6a:02.0", "0x0cfe")
    (finding,) = checked(tree, IAA).findings
    assert (finding.code, finding.weight, finding.where) == ("no-driver", Weight.BLOCKS, ("0000:6a:02.0",))
    assert finding.remedy.startswith("modprobe idxd")


@pytest.mark.parametrize(
    ("status", "words"),
    [("0x80060000", "a shared queue has no threshold (0x80060000)"), ("0x14", "the idxd driver knows why (0x14)")],
)
def test_failed_command_is_said_in_words(tree: Tree, status: str, words: str) -> None:
    tree.add_ready_device("iax1", cmd_status=status)
    (finding,) = checked(tree, IAA).findings
    assert (finding.code, finding.what) == ("command", f"the last command to it failed: {words}")


def test_broken_values_are_said_where_they_stand(tree: Tree) -> None:
    tree.add_device("iax1", max_transfer_size="-5")
    tree.set_queue("iax1", 0)
    (finding,) = checked(tree, IAA).findings
    assert finding.line == (
        "iax1: max_transfer_size '-5' is not within 1 to 1099511627776: "
        "it counts as not there; look at the file, and at dmesg"
    )


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"state": "down"}, "device-disabled"),
        ({"services": "sym;asym"}, "no-compression"),
        ({"sriov_numvfs": "0"}, "no-functions"),
    ],
)
def test_qat_device_that_cannot_compress_blocks(tree: Tree, values: dict[str, str], code: str) -> None:
    tree.add_qat("0000:6b:00.0", **values)
    tree.add_qatmgr()
    report = checked(tree, QAT)
    assert (codes(report), report.findings[0].weight, report.usable) == ([code], Weight.BLOCKS, {QAT: False})


def test_qat_without_qatmgr_blocks(tree: Tree) -> None:
    tree.add_qat("0000:6b:00.0")
    assert codes(checked(tree, QAT)) == ["qatmgr"]


def test_broken_policy_is_said(tree: Tree) -> None:
    tree.add_qat("0000:6b:00.0")
    tree.add_qatmgr("-1")
    report = checked(tree, QAT)
    assert (codes(report), report.usable) == (["bad-value"], {QAT: True})


@pytest.fixture(scope="module")
def shared_tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """One tree for all examples, each of which puts it back."""
    tree = Tree(tmp_path_factory.mktemp("tree"))
    tree.add_ready_device("iax1")
    return tree


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("", "wq1.0")),
            st.sampled_from(("state", "type", "mode", "size", "threshold", "pasid_enabled")),
            st.sampled_from(("0", "1", "128", "enabled", "disabled", "user", "kernel", "shared", "dedicated", "junk")),
        ),
        max_size=5,
    )
)
def test_kind_that_is_not_usable_always_has_a_finding_that_blocks(
    shared_tree: Tree, changes: list[tuple[str, str, str]]
) -> None:
    files = {shared_tree.device("iax1") / where / name: value for where, name, value in changes}
    with changed({path: value.encode() for path, value in files.items()}):
        report = checked(shared_tree, IAA)
    blocked = any(finding.weight is Weight.BLOCKS for finding in report.findings)
    assert blocked is not report.usable[IAA]
    assert all("\n" not in finding.line for finding in report.findings)
