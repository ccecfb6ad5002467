#!/usr/bin/python
"""Module `gpu_partition`: bring the NVIDIA cards of a host to the layout in /etc/gpu-partition/layout.json."""

from __future__ import annotations

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: gpu_partition
short_description: Cut NVIDIA cards into the wanted slices
description:
  - Runs the program C(gpu-partition) of the role gpu_partition, which changes only the cards and slices that differ.
options:
  program:
    description: Path of the program.
    type: path
    default: /usr/local/sbin/gpu-partition
  layout:
    description: What the layout file holds after this run. Check mode goes by it, since the file is not written then.
    type: dict
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Cut the cards
  gpu_partition:
"""

RETURN = r"""
cards:
  description: Each card with its layout before and after.
  returned: always
  type: list
workers:
  description: Each worker that the cards have room for; its name, memory in MiB and the kinds of training that fit.
  returned: success
  type: list
"""

# Exit statuses of the program, as its help lists them.
ADVICE = {
    2: "correct gpu_partition_cards in the inventory",
    3: "wait until the jobs have ended, or raise gpu_partition_drain_timeout, and run this again",
    4: "reboot the host when its jobs have ended; it cuts its cards at boot",
    5: "look at the driver: roles/nvidia_driver, nvidia-smi, journalctl -k -g nvidia",
}


def diff_of(cards: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return Ansible's diff: for each card that changes its slices before and after, one a line."""

    def text(card: dict[str, Any], moment: str) -> str:
        return "".join(f"{line}\n" for line in [f"MIG mode {card['mode'][moment]}", *card[moment]])

    return [
        {
            "before_header": f"{card['name']} {card['model']} {card['address']}",
            "after_header": f"{card['name']} {card['model']} {card['address']}",
            "before": text(card, "before"),
            "after": text(card, "after"),
        }
        for card in cards
        if card["changed"]
    ]


def main() -> None:
    """Run the program and hand its answer to Ansible."""
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "path", "default": "/usr/local/sbin/gpu-partition"},
            "layout": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    command = [module.params["program"], "apply", "--json"]
    layout = None
    if module.check_mode:
        command.append("--check")
        if module.params["layout"]:
            command += ["--layout", "/dev/stdin"]
            layout = json.dumps(module.params["layout"])
    status, output, errors = module.run_command(command, data=layout)
    try:
        answer = json.loads(output)
    except ValueError:
        module.fail_json(msg=f"{' '.join(command)} ended with status {status}: {errors or output}", rc=status)
    if status != 0:
        advice = ADVICE.get(status, "")
        message = str(answer.get("message", errors)).rstrip(".")
        module.fail_json(msg=f"{message}. {advice}".rstrip(), rc=status, answer=answer)
    module.exit_json(
        changed=answer["changed"],
        cards=answer["cards"],
        workers=answer["workers"],
        msg=answer["message"],
        diff=diff_of(answer["cards"]),
    )


if __name__ == "__main__":
    main()
