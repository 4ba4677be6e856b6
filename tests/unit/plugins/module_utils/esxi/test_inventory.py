# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A list of VMs is taken only when nothing is missing from it. The host's commands are scripts that a test writes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, inventory
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.inventory import read_listing
from fakeclock import FakeClock

ROWS = "".join(
    f"{vmid}      vm{vmid}    [datastore1] vm{vmid}/vm{vmid}.vmx   otherGuest   vmx-13              \n"
    for vmid in (1, 2, 3)
)
WHOLE = "Vmid   Name             File              Guest OS    Version   Annotation\n" + ROWS
CUT = WHOLE[: len(WHOLE) // 2]


def entries(*vmids: int) -> str:
    return "".join(
        f"<ConfigEntry><objID>{n}</objID><vmxCfgPath>/vmfs/volumes/u/vm{n}/vm{n}.vmx</vmxCfgPath></ConfigEntry>"
        for n in vmids
    )


class Fleet:
    """`answers` of getallvms in turn, the last one for good; `file` is hostd's own list, None where it is not there."""

    def __init__(self, session: Any, folder: Path) -> None:
        self.session, self.folder = session, folder
        self.clock = FakeClock()
        self.host = Host(session, clock=self.clock, lock=contextlib.nullcontext)
        self.asked = folder / "asked"

    def says(self, *answers: str, file: str | None, stderr: str = "") -> None:
        for number, answer in enumerate(answers, 1):
            (self.folder / f"answer.{number}").write_text(answer)
        (self.folder / "stderr").write_text(stderr)
        self.session.put(
            "vim-cmd",
            f"echo x >>{self.asked}\nn=$(grep -c x {self.asked})\n"
            f"[ $n -gt {len(answers)} ] && n={len(answers)}\n"
            f"cat {self.folder}/stderr >&2\ncat {self.folder}/answer.$n\n",
        )
        self.session.put("esxcli", "exit 1\n")
        if file is not None:
            Path(inventory.VM_INVENTORY).write_text(f"<ConfigRoot>{file}</ConfigRoot>")

    @property
    def times(self) -> int:
        return len(self.asked.read_text().split())


@pytest.fixture
def fleet(local_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(inventory, "VM_INVENTORY", str(tmp_path / "vmInventory.xml"))
    return Fleet(local_session, tmp_path)


def test_a_whole_list_is_asked_for_once(fleet: Fleet) -> None:
    fleet.says(WHOLE, file=entries(1, 2, 3))
    assert read_listing(fleet.host).vmids == {1, 2, 3}
    assert fleet.times == 1


@pytest.mark.parametrize("first", [CUT, "", WHOLE[:20]])
def test_a_list_that_was_cut_once_is_asked_for_again(fleet: Fleet, first: str) -> None:
    fleet.says(first, WHOLE, file=entries(1, 2, 3))
    assert read_listing(fleet.host).vmids == {1, 2, 3}
    assert fleet.times == 2


def test_a_list_that_stays_cut_is_an_error_that_names_what_is_missing(fleet: Fleet) -> None:
    fleet.says(CUT, file=entries(1, 2, 3))
    with pytest.raises(errors.ListCutShort) as caught:
        read_listing(fleet.host)
    assert "3 (/vmfs/volumes/u/vm3/vm3.vmx)" in caught.value.message and inventory.VM_INVENTORY in caught.value.message
    assert fleet.times == 3


def test_what_the_host_skips_by_name_is_not_missing(fleet: Fleet) -> None:
    fleet.says(WHOLE, file=entries(1, 2, 3, 4), stderr="Skipping invalid VM '4'\n")
    assert read_listing(fleet.host).invalid == {4}
    assert fleet.times == 1


def test_a_vm_that_hostds_file_does_not_know_yet_is_no_reason_to_ask_again(fleet: Fleet) -> None:
    fleet.says(WHOLE, file=entries(1, 2))
    assert read_listing(fleet.host).vmids == {1, 2, 3}
    assert fleet.times == 1


def test_without_hostds_file_two_readings_must_agree(fleet: Fleet) -> None:
    fleet.says(CUT, WHOLE, WHOLE, file=None)
    assert read_listing(fleet.host).vmids == {1, 2, 3}
    assert fleet.times == 3


def test_without_hostds_file_readings_that_never_agree_are_an_error(fleet: Fleet) -> None:
    fleet.says(CUT, WHOLE, CUT, file=None)
    with pytest.raises(errors.UnreadableOutput, match="differs each time"):
        read_listing(fleet.host)


def test_a_host_without_vms_has_an_empty_list(fleet: Fleet) -> None:
    fleet.says(WHOLE.partition("\n")[0] + "\n", file="")
    assert read_listing(fleet.host).vmids == frozenset()
    assert fleet.times == 2


def test_no_list_at_all_is_unreadable(fleet: Fleet) -> None:
    fleet.says("", file=entries(1))
    with pytest.raises(errors.UnreadableOutput, match="no heading"):
        read_listing(fleet.host)


def test_a_datastore_that_is_gone_is_asked_for_once_and_not_for_each_of_its_vms(fleet: Fleet) -> None:
    fleet.says(WHOLE, file=entries(1, 2, 3))
    fleet.session.put("esxcli", f"echo x >>{fleet.folder}/mounts\nexit 1\n")
    fleet.session.put("localcli", "echo 'Mount Point  Volume Name'\necho '-----------  -----------'\n")
    assert [vm.datastore for vm in fleet.host.vms()] == ["u", "u", "u"]
    assert len((fleet.folder / "mounts").read_text().split()) <= 4


def test_an_unregistration_that_was_heard_although_its_client_was_killed_is_one(fleet: Fleet) -> None:
    fleet.says(WHOLE, file=entries(1, 2, 3))
    gone = '(vim.fault.NotFound) {\n   faultCause = (vmodl.MethodFault) null,\n   msg = "Not found"\n}'
    fleet.session.put(
        "vim-cmd", f"[ $1 = vmsvc/unregister ] && {{ printf '%s' '{gone}'; exit 1; }}\necho 'Vmid   Name'\n"
    )
    Path(inventory.VM_INVENTORY).write_text("<ConfigRoot/>")
    fleet.host.unregister(2)


def test_an_unregistration_without_effect_is_an_error(fleet: Fleet) -> None:
    fleet.says(WHOLE, file=entries(1, 2, 3))
    fleet.session.put("esxcli", "echo 'Mount Point  Volume Name'\necho '-----------  -----------'\n")
    with pytest.raises(errors.CommandFailed, match="still registered"):
        fleet.host.unregister(2)
