# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_message import parse_message

DATA = Path(__file__).parent / "data"


def test_a_question_with_its_choices_and_default():
    question = parse_message((DATA / "message-moved-or-copied.txt").read_text())
    assert question is not None
    assert question.id == "12" and question.text.startswith("msg.uuid.altered:")
    assert question.choices == ((0, "Cancel"), (1, "I moved it"), (2, "I copied it")) and question.default == 2


def test_newer_ids_and_no_question():
    text = (
        "Virtual machine message _vmx1:\nmsg.hbacommon.outofspace:no room\n   0. Retry (Retry)\n   1. Cancel (Cancel)\n"
    )
    question = parse_message(text)
    assert question is not None and question.id == "_vmx1" and question.default is None
    assert parse_message("No message.\n") is None
