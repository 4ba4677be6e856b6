# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shell programs that people run on hypervisors work in a lab host: the ways in which they read what commands print."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import guestcheck
import pytest

from .conftest import ROOT, Lab, LabHost

HOSTS = ("esx67", "esx70", "esx80")
#: A VM that runs, and one that is off, on each host.
VMS = {"esx67": ("plain67", "off67"), "esx70": ("notools", "two words"), "esx80": ("plain80", "twin")}


def shell(host: LabHost, script: str, *arguments: str, timeout: float = 180.0) -> subprocess.CompletedProcess[str]:
    """Lay a script on a datastore and run it as `sh script`, which execInstalledOnly allows."""
    (host.volume_path("datastore1") / "idiom.sh").write_text(script, encoding="utf-8")
    words = " ".join(f"'{word}'" for word in arguments)
    return host.ssh(f"sh /vmfs/volumes/datastore1/idiom.sh {words}", timeout=timeout)


def output(host: LabHost, script: str, *arguments: str) -> str:
    done = shell(host, script, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.fixture(params=HOSTS)
def host(lab: Lab, request: pytest.FixtureRequest) -> LabHost:
    return lab.host(request.param)


# --- start-up checks ----------------------------------------------------------------------------------------------

CHECKS = r"""
set -u
[ "$(env | grep -e '^USER=' | awk -F = '{print $2}')" = root ] || echo no user
[[ -f /bin/vim-cmd ]] || echo no vim-cmd
[[ -f /usr/bin/vmware-vim-cmd ]] && echo classic vim-cmd
[[ -f /bin/nc ]] || echo no nc
[[ -f /bin/tar ]] || echo no tar
case "$(vmware -v | awk '{print $3}')" in
    6.7.0|7.0.[0-3]|8.0.[0-3]) ;;
    *) echo "version $(vmware -v)" ;;
esac
vim-cmd vmsvc/snapshot.remove 2>&1 | grep -q snapshotId || echo removal not by id
vmkfstools 2>&1 -h | grep -F -e '--adaptertype' | grep -qF deprecated || echo adapter type wanted
uname -r | grep -q '^[6-8]\.' || echo "uname $(uname -r)"
for form in -v -l; do vmware $form | grep -q '^VMware ESXi ' || echo "vmware $form"; done
[ "$(hostname)" = "$(hostname -f)" ] && [ "$(hostname -s)" = "$(hostname | cut -d. -f1)" ] || echo names
work=/tmp/idiom.work
mkdir $work && ! mkdir $work 2>/dev/null && rmdir $work || echo no lock by mkdir
temporary=$(mktemp /tmp/idiom.XXXXXX) && [ -f "$temporary" ] && rm "$temporary" || echo no mktemp
while getopts ":a:b" letter -a one -b; do echo "$letter ${OPTARG:-}"; done
trap 'echo trapped' 0
"""


def test_the_checks_that_a_script_makes_at_its_start_pass(host: LabHost) -> None:
    assert output(host, CHECKS) == "a one\nb \ntrapped\n"


def test_the_multiextent_module_is_listed_only_once_it_is_loaded(clean_lab: Lab) -> None:
    host = clean_lab.host("esx67")
    script = "esxcli system module list | grep -c '^multiextent'"
    was = shell(host, script).stdout.strip()
    if was == "0":
        assert shell(host, "esxcli system module load -m multiextent").returncode == 0
    assert output(host, script) == "1\n"
    assert "multiextent" in output(host, "vmkload_mod -u multiextent")


# --- inventory ----------------------------------------------------------------------------------------------------

INVENTORY = r"""
vim-cmd vmsvc/getallvms | sed 's/[[:blank:]]\{3,\}/   /g' | fgrep '[' | fgrep vmx- | fgrep .vmx | fgrep / |
    awk -F'   ' '{print "\""$1"\";\""$2"\";\""$3"\""}' | sed 's/\] /\]\";\"/g' > /tmp/idiom.list
vmid=$(grep -E "\"$1\"" /tmp/idiom.list | awk -F ';' '{print $1}' | sed 's/"//g' | head -1)
store=$(grep -E "\"$1\"" /tmp/idiom.list | awk -F ';' '{print $3}' | sed 's/\[//;s/\]//;s/"//g' | head -1)
path=$(grep -E "\"$1\"" /tmp/idiom.list | awk -F ';' '{print $4}' | sed 's/\[//;s/\]//;s/"//g' | head -1)
[ -f "/vmfs/volumes/$store/$path" ] && echo "$vmid $(vim-cmd vmsvc/power.getstate "$vmid" | tail -1)"
rm /tmp/idiom.list
"""


@pytest.mark.parametrize("which", [0, 1])
def test_a_vm_is_found_by_name_with_its_datastore_and_its_file(host: LabHost, which: int) -> None:
    name = VMS[host.name][which]
    found = host.vm(name)
    state = {"poweredOn": "Powered on", "poweredOff": "Powered off"}[found["power"]]
    assert output(host, INVENTORY, name) == f"{found['vmid']} {state}\n"


def test_other_ways_to_the_id_and_the_power_of_all_vms_agree(host: LabHost) -> None:
    script = r"""
        vim-cmd vmsvc/getallvms 2>/dev/null | sort -n | grep -m 1 "[0-9] * $1 .*$1" | awk '{print $1}'
        for id in $(vim-cmd vmsvc/getallvms | awk '{print $1}' | grep -o '[0-9]\+'); do
            vim-cmd vmsvc/power.getstate $id | egrep -iq 'off|suspended' || echo "on $id"
        done
        esxcli vm process list | grep 'World ID' | sed -e 's/.*: //g' | wc -l
    """
    lines = output(host, script, VMS[host.name][0]).splitlines()
    vms = host.status["vms"]
    assert lines[0] == host.vm(VMS[host.name][0])["vmid"]
    running = sorted(f"on {vm['vmid']}" for vm in vms if vm["power"] == "poweredOn")
    assert sorted(lines[1:-1]) == running
    assert lines[-1] == str(len(running))


# --- configuration and descriptors --------------------------------------------------------------------------------

CONFIG = r"""
vmx=$1; folder=$(dirname "$vmx")
for slot in $(grep -iE '(^scsi|^ide|^sata|^nvme)' "$vmx" | grep -i fileName | awk -F ' ' '{print $1}'); do
    key=${slot%%.*}
    grep -i "^$key.present" "$vmx" | grep -qi true || continue
    kind=$(grep -i "^$key.mode" "$vmx" | grep -qi independent && echo independent || echo dependent)
    grep -i "^$key.deviceType" "$vmx" | grep -qi scsi-hardDisk || kind="$kind other"
    file=$(grep -i "^$key.fileName" "$vmx" | awk -F '"' '{print $2}')
    sectors=$(cat "$folder/$file" | grep VMFS | grep .vmdk | awk '{print $2}')
    adapter=$(grep -i ddb.adapterType "$folder/$file" | awk -F = '{print $2}' |
        sed -e 's/^[[:blank:]]*//;s/[[:blank:]]*$//;s/"//g')
    grep -q vmfsPassthroughRawDeviceMap "$folder/$file" && kind="$kind raw"
    echo "$key $kind $file $(awk "BEGIN{printf \"%.0f\", $sectors*512/1024/1024}") $adapter"
done
grep nvram "$vmx" | awk -F '"' '{print $2}'
ls "$folder" | grep -q '\-delta\.vmdk' && echo delta
true
"""


def test_disks_are_read_from_the_configuration_and_their_descriptors(lab: Lab) -> None:
    host = lab.host("esx80")
    lines = output(host, CONFIG, "/vmfs/volumes/datastore1/independent/independent.vmx").splitlines()
    assert lines[:2] == [
        "scsi0:0 dependent independent.vmdk 64 lsilogic",
        "scsi0:1 independent independent_1.vmdk 64 lsilogic",
    ]
    assert lines[2] == "independent.nvram"


# --- a backup and a restore ---------------------------------------------------------------------------------------

BACKUP = r"""
vmid=$1; source=$2; target=$3; format=$4; name="idiom-snapshot-$(date +%F)"
rm -rf "$target"; mkdir -p "$target" || exit 1
cp "$source"/*.vmx "$target/" || exit 1
state=$(vim-cmd vmsvc/power.getstate "$vmid" | tail -1)
if [ "$state" != 'Powered off' ]; then
    [ "$(vim-cmd vmsvc/snapshot.get "$vmid" | wc -l)" = 1 ] || { echo 'has snapshots'; exit 2; }
    vim-cmd vmsvc/snapshot.create "$vmid" "$name" "$name" 0 0 > /dev/null
    tries=0
    while [ "$(vim-cmd vmsvc/snapshot.get "$vmid" | wc -l)" = 1 ]; do
        [ $((tries += 1)) -gt 60 ] && exit 3
        sleep 1
    done
fi
for disk in $(grep -i fileName "$target"/*.vmx | grep .vmdk | awk -F '"' '{print $2}'); do
    vmkfstools -i "$source/$disk" -d "$format" "$target/$disk" > "$target/clone.out" 2>&1 ||
        { cat "$target/clone.out"; exit 4; }
    grep -q '100% done' "$target/clone.out" || exit 5
done
if [ "$state" != 'Powered off' ]; then
    snapid=$(vim-cmd vmsvc/snapshot.get "$vmid" | grep -E '(Snapshot Name|Snapshot Id)' | grep -A1 "$name" |
        grep 'Snapshot Id' | awk -F ':' '{print $2}' | sed -e 's/^[[:blank:]]*//;s/[[:blank:]]*$//')
    vim-cmd vmsvc/snapshot.remove "$vmid" "$snapid" > /dev/null
    while ls "$source" | grep -q '\-delta\.vmdk'; do sleep 1; done
fi
rm "$target/clone.out"; touch "$target/STATUS.ok"
tar -cz -C "$(dirname "$target")" "$(basename "$target")" -f "$target.tgz" && rm -rf "$target" &&
    tar -xz -C "$(dirname "$target")" -f "$target.tgz" && rm "$target.tgz"
ls "$target" | sort | tr '\n' ' '
"""

RESTORE = r"""
backup=$1; folder=$2; name=$3; format=$4
mkdir "$folder" || exit 1
vmx=$(ls "$backup" | grep .vmx)
cp "$backup/$vmx" "$folder/$name.vmx"
sed -i "s/displayName =.*/displayName = \"$name\"/g" "$folder/$name.vmx"
sed -i '/^uuid\./d; /derivedName/d; /generatedAddress/d' "$folder/$name.vmx"
number=0
for descriptor in $(ls "$backup" | grep .vmdk | grep -v '\-flat.vmdk\|-s[0-9]*.vmdk'); do
    sed -i "s#\"$descriptor\"#\"$name-$number.vmdk\"#g" "$folder/$name.vmx"
    vmkfstools -i "$backup/$descriptor" -d "$format" "$folder/$name-$number.vmdk" 2>&1 |
        tee /dev/null | grep -q '100% done' || exit 2
    number=$((number + 1))
done
vim-cmd solo/registervm "$folder/$name.vmx"
"""


@pytest.fixture
def clean_target(host: LabHost) -> Iterator[LabHost]:
    """The host, without what a test has registered and laid down."""
    yield host
    host.ssh(
        "id=$(vim-cmd vmsvc/getallvms | awk '$2 == \"idiom\" {print $1}');"
        ' [ -n "$id" ] && { vim-cmd vmsvc/power.off $id; vim-cmd vmsvc/destroy $id; };'
        f" rm -rf /vmfs/volumes/backup/idiom-{host.name} /vmfs/volumes/datastore1/idiom*"
    )


#: In which format each host copies, and in which it restores.
FORMATS = {"esx67": ("2gbsparse", "thin"), "esx70": ("thin", "eagerzeroedthick"), "esx80": ("zeroedthick", "thin")}


def test_a_running_vm_is_copied_under_a_snapshot_and_its_copy_runs(clean_target: LabHost, tmp_path: Path) -> None:
    host = clean_target
    copied, restored = FORMATS[host.name]
    found = host.vm(VMS[host.name][0])
    folder = Path(found["vmx"]).parent
    backup = f"/vmfs/volumes/backup/idiom-{host.name}"
    if copied == "2gbsparse":
        host.ssh("esxcli system module load -m multiextent")
    names = output(host, BACKUP, found["vmid"], str(folder), backup, copied).split()
    assert "STATUS.ok" in names
    assert host.vm(found["name"])["snapshots"] == []
    vmid = output(host, RESTORE, backup, "/vmfs/volumes/datastore1/idiom", "idiom", restored).strip()
    assert judge(host.volume_path("datastore1") / "idiom/idiom-0.vmdk", tmp_path) == "consistent"
    started = host.ssh(f"vim-cmd vmsvc/power.on {vmid}; vim-cmd vmsvc/power.getstate {vmid} | tail -1")
    assert started.stdout == "Powering on VM:\nPowered on\n"


def judge(descriptor: Path, folder: Path) -> str:
    """qemu-img reads the disk, the guest's checker says whether it is one moment."""
    raw = folder / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(descriptor), str(raw)], check=True)
    checker = ROOT / "tests/lab/guestcheck.py"
    assert guestcheck.__file__ == str(checker)
    done = subprocess.run([sys.executable, str(checker), str(raw)], capture_output=True, text=True, check=False)
    return done.stdout.split()[0] if done.returncode == 0 else done.stdout + done.stderr


def test_a_vm_with_a_users_snapshot_is_left_alone(lab: Lab) -> None:
    host = lab.host("esx70")
    found = host.vm("snapped")
    folder = str(Path(found["vmx"]).parent)
    done = shell(host, BACKUP, found["vmid"], folder, "/vmfs/volumes/backup/idiom-snapped", "thin")
    assert (done.returncode, done.stdout) == (2, "has snapshots\n")
    assert host.vm("snapped")["snapshots"] == ["users own"]


def test_the_test_for_deltas_sees_those_of_vmfs_5_and_not_those_of_vmfs_6(lab: Lab) -> None:
    """Which is why the product looks into the .vmx instead."""
    seen = {}
    for name, vm in (("esx67", "off67"), ("esx80", "plain80")):
        host = lab.host(name)
        found = host.vm(vm)
        script = r"""
            vim-cmd vmsvc/snapshot.create "$1" idiom > /dev/null
            while [ "$(vim-cmd vmsvc/snapshot.get "$1" | wc -l)" = 1 ]; do sleep 1; done
            ls "$2" | grep -c '\-delta\.vmdk'
            vim-cmd vmsvc/snapshot.removeall "$1" > /dev/null
        """
        seen[name] = output(host, script, found["vmid"], str(Path(found["vmx"]).parent)).strip()
    assert seen == {"esx67": "1", "esx80": "0"}


# --- the host and its shell ---------------------------------------------------------------------------------------

NUMBERS = r"""
for word in capacity freespace; do
    number=$(vim-cmd hostsvc/datastore/info "$1" | grep -i "$word" | awk '{print $3}' | sed 's/,//g')
    [ "$number" -gt 1000000 ] || echo "$word $number"
done
vim-cmd hostsvc/datastore/info "$1" | grep -i blockSizeMb | awk '{print $3}' | sed 's/,//g'
"""


def test_the_numbers_of_a_datastore_are_one_word_each(host: LabHost) -> None:
    assert output(host, NUMBERS, "datastore1") == "1\n"
    assert output(host, NUMBERS, "backup") == ""


def test_datastore_names_are_cut_out_of_the_file_system_list(host: LabHost) -> None:
    script = r"""
        esxcli storage filesystem list | grep '/vmfs/volumes/.*[VMFS|NFS]' |
            awk '{for(i=2;i<=NF-5;++i) printf $i" "; print ""}'
    """
    names = {line.strip() for line in output(host, script).splitlines()}
    assert set(host.status["datastores"]) <= names


def test_the_firewall_is_read_by_its_columns_and_switched_for_a_while(clean_lab: Lab) -> None:
    script = r"""
        esxcli network firewall ruleset rule list | awk -F'[ ]{2,}' '{print $5}' | grep -c '^22$'
        was=$(esxcli network firewall ruleset list | awk '$1=="sshClient"{print $2}')
        esxcli network firewall ruleset set -e true -r sshClient
        esxcli network firewall ruleset list | awk '$1=="sshClient"{print $2}'
        esxcli network firewall ruleset set -e "$was" -r sshClient
        echo "$was"
    """
    assert output(clean_lab.host("esx80"), script) == "2\ntrue\nfalse\n"


def test_a_disk_is_made_grown_looked_at_and_removed(host: LabHost) -> None:
    script = r"""
        d=/vmfs/volumes/datastore1/idiom-disk; rm -rf $d; mkdir $d; cd $d || exit 1
        vmkfstools -c 16M -d thin x.vmdk > /dev/null && test -s x.vmdk
        vmkfstools -X 24M x.vmdk > /dev/null
        ls -l x-flat.vmdk | awk '{print $5}'
        vmkfstools -t0 x.vmdk | grep -c 'NOMP -- :'
        vmkfstools --punchzero x.vmdk > /dev/null
        vmkfstools -i x.vmdk -d zeroedthick y.vmdk > /dev/null
        vmkfstools -t0 y.vmdk | grep -c 'VMFS Z- LVID:'
        vmkfstools -E y.vmdk z.vmdk && vmkfstools -e z.vmdk
        find . ! -name '*.vmdk' -type f ! -size 0 | wc -l
        vmkfstools -U x.vmdk; vmkfstools -U z.vmdk; ls | wc -l; cd /; rmdir $d
    """
    assert output(host, script) == "25165824\n1\n1\nDisk chain is consistent.\n0\n0\n"


def test_commas_separate_what_the_csv_formatter_prints(host: LabHost) -> None:
    script = r"""
        esxcli --formatter csv system version get | tail -1 | tr ',' '\n' | grep -c 'VMware ESXi'
        esxcli --formatter csv network vm list | head -1
        world=$(esxcli vm process list | grep 'World ID' | head -1 | sed 's/.*: //')
        esxcli --formatter csv network vm port list -w "$world" | head -1 | grep -c 'IPAddress,'
    """
    assert output(host, script).splitlines() == ["1", "Name,Networks,NumPorts,WorldID,", "1"]


def test_mail_can_be_made_with_what_the_shell_has(host: LabHost) -> None:
    script = r"""
        printf 'user' | openssl enc -A -base64; echo
        dd if=/dev/urandom bs=6 count=1 2>/dev/null | hexdump -e '/1 "%02X"' | wc -c
        date +%F_%H-%M-%S | grep -c '^20..-..-.._..-..-..$'
        ln -sfn /tmp/nowhere /tmp/idiom.link && readlink /tmp/idiom.link && rm /tmp/idiom.link
        sleep 30 & kill -0 $! && kill $! && echo ended
        ls -t /bin | head -1 | wc -l
    """
    assert output(host, script).splitlines() == ["dXNlcg==", "12", "1", "/tmp/nowhere", "ended", "1"]


# --- the machine that commands change -----------------------------------------------------------------------------


def test_a_backup_servers_export_is_mounted_and_let_go_by_command(clean_lab: Lab) -> None:
    host = clean_lab.host("esx67")
    script = r"""
        vim-cmd hostsvc/datastore/destroy backup && vim-cmd hostsvc/datastore/nas_create idiomnas nfs /srv/backup 0 bk1
        echo written > /vmfs/volumes/idiomnas/idiom-note && df | grep -c '^NFS .*/idiomnas$'
        cd /vmfs/volumes/idiomnas && vim-cmd hostsvc/datastore/destroy idiomnas | head -1; cd /
        vim-cmd hostsvc/datastore/destroy idiomnas && ls /vmfs/volumes | grep -c idiomnas
        vim-cmd hostsvc/datastore/nas_create backup nfs /srv/backup 0 bk1 && cat /vmfs/volumes/backup/idiom-note
        rm /vmfs/volumes/backup/idiom-note
    """
    done = shell(host, script)
    assert done.stdout.splitlines() == ["1", "(vim.fault.ResourceInUse) {", "0", "written"]
    host.reboot()
    assert (
        host.ssh("ls /vmfs/volumes/backup >/dev/null && esxcli storage nfs list | grep -c '^backup '").stdout == "1\n"
    )


def test_exec_installed_only_can_be_lifted_until_the_next_boot(clean_lab: Lab) -> None:
    host = clean_lab.host("esx80")
    attempt = "cp /bin/busybox /vmfs/volumes/datastore1/ls && /vmfs/volumes/datastore1/ls / >/dev/null; echo $?"
    option = "esxcli system settings advanced set -o /User/execInstalledOnly -i"
    assert host.ssh(attempt).stdout == "126\n"
    try:
        assert host.ssh(f"{option} 0").returncode == 0
        assert host.ssh(attempt).stdout == "0\n"
    finally:
        host.ssh(f"{option} 1")
    assert host.ssh(f"{attempt}; rm /vmfs/volumes/datastore1/ls").stdout == "126\n"
