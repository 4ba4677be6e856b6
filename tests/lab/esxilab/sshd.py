# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys, accounts, PAM and sshd_config of the lab's machines."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from esxilab.errors import LabError
from esxilab.sysimage import busybox_path
from esxilab.topology import Machine

# RSA keys take long to make. A lab has this many; hosts beyond take one of them again, with an ECDSA key of their own.
RSA_POOL = 4

# The sshd_config of 8.0.2, but for 'fipsmode yes', which a stock OpenSSH refuses; the key rules have its effects.
ESXI_CONFIG = """\
allowstreamlocalforwarding no
allowtcpforwarding no
banner /etc/issue
challengeresponseauthentication yes
ciphers aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr
clientalivecountmax 3
clientaliveinterval 200
gatewayports no
hostbasedauthentication no
hostkeyalgorithms ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-256,rsa-sha2-512
ignorerhosts yes
kexalgorithms ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,diffie-hellman-group-exchange-sha256,\
diffie-hellman-group16-sha512,diffie-hellman-group18-sha512,diffie-hellman-group14-sha256
loglevel info
macs hmac-sha2-256,hmac-sha2-512
maxstartups 10:30:100
permitrootlogin yes
permittunnel no
permituserenvironment no
printmotd yes
rekeylimit 1G 1H
syslogfacility auth
tcpkeepalive yes
usepam yes
x11forwarding no
strictmodes yes
passwordauthentication no
permitemptypasswords no
hostkey /etc/ssh/ssh_host_rsa_key
hostkey /etc/ssh/ssh_host_ecdsa_key
compression no
authorizedkeysfile /etc/ssh/keys-%u/authorized_keys
"""
# What differs before 6.5, by a published one of 6.0: SHA-1 signatures, one host key that a client still knows, no GCM.
OLD = {
    "ciphers": "aes128-ctr,aes192-ctr,aes256-ctr",
    "hostkeyalgorithms": "ssh-rsa",
    "macs": "hmac-sha2-256,hmac-sha2-512,hmac-sha1",
    "hostkey": "/etc/ssh/ssh_host_rsa_key",
}
SFTP = "subsystem sftp /usr/lib/vmware/openssh/bin/sftp-server -f LOCAL5 -l INFO\n"

LINUX_CONFIG = """\
hostkey /etc/ssh/ssh_host_rsa_key
hostkey /etc/ssh/ssh_host_ecdsa_key
kbdinteractiveauthentication no
passwordauthentication yes
permitrootlogin yes
usepam yes
printmotd no
x11forwarding no
maxstartups 100:30:200
subsystem sftp /usr/lib/openssh/sftp-server
acceptenv LANG LC_*
"""

MOTD_HEAD = "The time and date of this login have been sent to the system logs.\n\n"
MOTD_WARNING = """\
WARNING:
   All commands run on the ESXi shell are logged and may be included in
   support bundles. Do not provide passwords directly on the command line.
   Most tools can prompt for secrets or accept them from standard input.

"""
MOTD_TOOLS = """\
VMware offers supported, powerful system administration tools.  Please
see www.vmware.com/go/sysadmintools for details.

"""
MOTD_TOOLS_9 = """\
VMware offers powerful and supported automation tools. Please
see https://developer.vmware.com for details.

"""
MOTD_TAIL = """\
The ESXi Shell can be disabled by an administrative user. See the
vSphere Security documentation for more information.
"""


def _keygen(path: Path, *options: str) -> None:
    done = subprocess.run(
        ["ssh-keygen", "-q", "-N", "", "-C", "lab", "-f", str(path), *options],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise LabError(f"ssh-keygen failed for {path}: {done.stderr.strip()}")


def make_keys(folder: Path, machines: list[Machine]) -> None:
    """The lab's login key (id_rsa, RSA-3072) and host keys: one ECDSA key each, RSA from a small pool."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pool = min(RSA_POOL, len(machines))
    jobs = [(folder / "id_rsa", ("-t", "rsa", "-b", "3072"))]
    jobs += [(folder / f"pool-{number}", ("-t", "rsa", "-b", "3072")) for number in range(pool)]
    jobs += [(folder / f"{machine.name}.ecdsa", ("-t", "ecdsa", "-b", "256")) for machine in machines]
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda job: _keygen(job[0], *job[1]), jobs))
    for number, machine in enumerate(machines):
        for suffix in ("", ".pub"):
            shutil.copy(folder / f"pool-{number % pool}{suffix}", folder / f"{machine.name}.rsa{suffix}")


def fingerprint(public_key: str) -> str:
    """SHA256:... of a public key line, as ssh-keygen -l prints it."""
    digest = hashlib.sha256(base64.b64decode(public_key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def host_public_keys(folder: Path, machine: Machine) -> list[str]:
    """The public host keys that the machine shows, ECDSA first, without comment."""
    kinds = ("rsa",) if machine.profile == "6.0" else ("ecdsa", "rsa")
    texts = [(folder / f"{machine.name}.{kind}.pub").read_text(encoding="ascii") for kind in kinds]
    return [" ".join(text.split()[:2]) for text in texts]


def known_hosts(folder: Path, machines: list[Machine]) -> str:
    """Lines for address and name of every machine."""
    lines = []
    for machine in machines:
        names = [machine.address, machine.name]
        if machine.port != 22:
            names = [f"[{name}]:{machine.port}" for name in names]
        lines += [f"{','.join(names)} {key}" for key in host_public_keys(folder, machine)]
    return "\n".join(lines) + "\n"


def hash_password(password: str) -> str:
    """A SHA-512 crypt; the password goes in by stdin, never on a command line."""
    done = subprocess.run(
        [busybox_path(), "mkpasswd", "-m", "sha512", "-P", "0"],
        input=password + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    hashed = done.stdout.strip()
    if not hashed.startswith("$6$"):
        raise LabError(f"busybox mkpasswd gave no password hash: {done.stderr.strip()}")
    return hashed


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def write_accounts(etc: Path, machine: Machine) -> None:
    """passwd, shadow, group: root, and the accounts that sshd and the system need."""
    shell, home = ("/bin/sh", "/") if machine.is_esxi else ("/bin/bash", "/root")
    nobody = "nobody:x:65534:65534:nobody:/:/bin/false\n"
    separation = "sshd:x:74:74:sshd privsep:/var/run/sshd:/bin/false\n"
    _write(etc / "passwd", f"root:x:0:0:Administrator:{home}:{shell}\n" + separation + nobody)
    _write(etc / "shadow", f"root:{hash_password(machine.password)}:18000:0:99999:7:::\nsshd:*:18000::::::\n", 0o600)
    _write(etc / "group", "root:x:0:\ntty:x:5:\nsshd:x:74:\nnogroup:x:65534:\n")
    _write(etc / "nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
    _write(etc / "shells", f"{shell}\n/bin/sh\n")


def write_pam(etc: Path, machine: Machine) -> None:
    """PAM for sshd: the machine's own passwords, and on a hypervisor the lock-out: five failures, fifteen minutes."""
    switches = machine.switches
    if machine.is_esxi and switches["lockout"]:
        options = (
            f"deny={switches['lockout_failures']} unlock_time={switches['lockout_seconds']} fail_interval=900"
            f" even_deny_root root_unlock_time={switches['lockout_seconds']} dir=/var/run/faillock silent"
        )
        auth = (
            f"auth requisite pam_faillock.so preauth {options}\n"
            "auth [success=1 default=ignore] pam_unix.so nodelay\n"
            f"auth [default=die] pam_faillock.so authfail {options}\n"
            f"auth sufficient pam_faillock.so authsucc {options}\n"
            "auth required pam_deny.so\n"
        )
    else:
        auth = "auth required pam_unix.so nodelay\n"
    rest = "account required pam_unix.so\npassword required pam_unix.so\nsession required pam_unix.so quiet\n"
    _write(etc / "pam.d/sshd", auth + rest)
    _write(etc / "pam.d/other", "auth required pam_deny.so\naccount required pam_deny.so\n")


def _key_rules(machine: Machine) -> str:
    # On 6.0, too: this sshd announces them whatever it accepts, and a client would never try SHA-1 then.
    accepted = ["rsa-sha2-512", "rsa-sha2-256"]
    if machine.profile in ("6.0", "6.7"):
        accepted.append("ssh-rsa")
    if machine.switches["ecdsa_user_keys"]:
        accepted += [f"ecdsa-sha2-nistp{bits}" for bits in (256, 384, 521)]
    if machine.switches["ed25519"]:
        accepted.append("ssh-ed25519")
    return f"pubkeyacceptedalgorithms {','.join(accepted)}\n"


def _esxi_config(machine: Machine) -> str:
    if machine.profile != "6.0":
        return ESXI_CONFIG
    lines = [line for line in ESXI_CONFIG.splitlines() if line.split()[0] not in OLD]
    return "".join(line + "\n" for line in [*lines, *(f"{key} {value}" for key, value in OLD.items())])


def motd(profile: str) -> str:
    """What an interactive login shows."""
    warning = "" if profile == "6.0" else MOTD_WARNING
    return MOTD_HEAD + warning + (MOTD_TOOLS_9 if profile == "9.0" else MOTD_TOOLS) + MOTD_TAIL


def write_sshd(etc: Path, keys: Path, machine: Machine, listen_port: int) -> None:
    """sshd_config, host keys, banner and authorized keys."""
    ssh = etc / "ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    for kind in ("rsa", "ecdsa"):
        shutil.copy(keys / f"{machine.name}.{kind}", ssh / f"ssh_host_{kind}_key")
        shutil.copy(keys / f"{machine.name}.{kind}.pub", ssh / f"ssh_host_{kind}_key.pub")
        (ssh / f"ssh_host_{kind}_key").chmod(0o600)
    own = (keys / "id_rsa.pub").read_text(encoding="ascii")
    config = f"listenaddress {machine.address}\nport {listen_port}\npidfile /var/run/sshd.pid\n"
    if machine.is_esxi:
        config += _esxi_config(machine) + _key_rules(machine) + "setenv PATH=/bin:/sbin\n"
        if machine.switches["sftp"]:
            config += SFTP
        if machine.switches["max_sessions"] != 10:
            config += f"maxsessions {machine.switches['max_sessions']}\n"
        _write(ssh / "keys-root/authorized_keys", own if machine.switches["known_key"] else "", 0o600)
        _write(etc / "issue", "")
        _write(etc / "motd", motd(machine.profile))
    else:
        config += LINUX_CONFIG
        _write(etc.parent / "root/.ssh/authorized_keys", own, 0o600)
        (etc.parent / "root/.ssh").chmod(0o700)
    _write(ssh / "sshd_config", config, 0o600)
