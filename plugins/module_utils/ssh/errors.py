# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong between here and the shell of another machine."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError


class SshError(StowageError):
    """Family of the room. Data: ``host`` and ``port`` wherever a machine is meant."""

    id = "ssh-error"
    template = "SSH to {host} port {port} failed: {reason}"
    hint = "Try the same connection by hand from the machine where this module runs"
    exit_code = 10


class BadEndpoint(SshError):
    id = "ssh-bad-endpoint"
    template = "The connection settings for {host} cannot work: {reason}"
    hint = "{way_out}"


class UnknownHostKey(SshError):
    id = "ssh-unknown-host-key"
    template = "The host key of {host} port {port} is not known here ({where}); it offers {offered}"
    hint = (
        "Compare that fingerprint with the one on the machine's own console; if it is the same, set "
        "{fingerprints_variable}: ['{offered_fingerprint}'] with stowage_host_key_policy: pinned for this host, "
        "or add the key to the known_hosts file (option known_hosts_file, variable stowage_known_hosts_file)"
    )
    exit_code = 11


class HostKeyMismatch(SshError):
    id = "ssh-host-key-mismatch"
    template = "The host key of {host} port {port} is not the expected one: it offers {offered}, expected is {expected}"
    hint = (
        "Either the machine was installed anew or somebody is in between. Compare the fingerprint on the machine's own "
        "console; only if it is the same, correct {fingerprints_variable} (or the line in the known_hosts file)"
    )
    exit_code = 12


class AuthenticationFailed(SshError):
    id = "ssh-authentication-failed"
    template = "{host} port {port} did not let {user} in with {tried}: {reason}"
    hint = "{way_out}"
    exit_code = 13


class HostUnreachable(SshError):
    id = "ssh-host-unreachable"
    template = "{host} port {port} cannot be reached by SSH: {reason}"
    hint = (
        "Check address, port and firewall from the machine where this module runs, and that the SSH service of the "
        "host is started"
    )
    exit_code = 14


class ConnectionLost(SshError):
    id = "ssh-connection-lost"
    template = "The connection to {host} port {port} ended while this ran: {command} ({reason})"
    hint = "It is not known whether the command was finished on the host; look before it is repeated"
    exit_code = 15


class CommandTimeout(SshError):
    id = "ssh-command-timeout"
    template = "On {host} this did not end within {seconds:g} seconds: {command}"
    hint = "It may still be running on the host"
    exit_code = 16


class AnswerTooLong(SshError):
    id = "ssh-answer-too-long"
    template = "On {host} this printed more than {limit} bytes, and was ended: {command}"
    hint = "No command of ours has so much to say: look at what answers for it on that host"
    exit_code = 16


class ProgramMissing(SshError):
    id = "ssh-program-missing"
    template = "There is no way to speak SSH to {host}: {reason}"
    hint = "Install the OpenSSH client, or the Python library paramiko, on the machine where this module runs"
    exit_code = 17


class UnsafeFolder(SshError):
    id = "ssh-unsafe-folder"
    template = "The folder {path} cannot hold SSH connections: {reason}"
    hint = "Remove it if it is not in use, or name another place in the environment variable STOWAGE_RUNTIME_DIR"
    exit_code = 18


class HostBusy(SshError):
    id = "ssh-host-busy"
    template = "{host} was in use by another task of this machine for {seconds:g} seconds"
    hint = "Look for a hanging vim-cmd on the host, or a hanging task on this machine"
    exit_code = 19


class RemoteCommandFailed(SshError):
    id = "remote-command-failed"
    template = "On {host} this ended with {rc}: {command}: {output}"
    hint = ""
    exit_code = 19


class RemoteFileError(SshError):
    id = "remote-file-error"
    template = "{path} on {host} cannot be {done}: {reason}"
    hint = ""
    exit_code = 19
