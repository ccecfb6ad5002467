#!/usr/bin/python
"""Module `gpu_partition`: bring the NVIDIA cards of a host to the layout in /etc/gpu-partition/layout.json."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.node_program import apply, diff_of

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


def main() -> None:
    """Run the program and hand its answer to Ansible."""
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "path", "default": "/usr/local/sbin/gpu-partition"},
            "layout": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    answer = apply(module, (), "--layout", module.params["layout"], ADVICE)
    module.exit_json(
        changed=answer["changed"],
        cards=answer["cards"],
        workers=answer["workers"],
        msg=answer["message"],
        diff=diff_of(answer["cards"], lambda card, moment: [f"MIG mode {card['mode'][moment]}", *card[moment]]),
    )


if __name__ == "__main__":
    main()
