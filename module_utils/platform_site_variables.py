"""Variables of the site as a whole, which belong to no role: a declaration of each.

No Ansible import.
"""

from __future__ import annotations

from .gpu_partition.cards import DEFAULT_TRAINING_MEMORY
from .platform_variables import Variable

SITE_VARIABLES: tuple[Variable, ...] = (
    Variable(
        "site_domain",
        "str",
        "Public DNS name under which users reach the platform, without https:// and without a port.",
        example="htr.example.org",
        required=True,
    ),
    Variable(
        "site_private_network",
        "str",
        "IPv4 network that connects the hosts of the platform, in CIDR notation. Database, broker and shared tree "
        "are reachable from it only.",
        example="10.10.0.0/24",
        required=True,
    ),
    Variable(
        "site_admin_email",
        "str",
        "Address of the person who runs the platform: first administrator account, error reports.",
        example="htr-admin@example.org",
        required=True,
    ),
    Variable(
        "private_address",
        "str",
        "IPv4 address of the host on site_private_network. A host variable.",
        example="10.10.0.21",
    ),
    Variable(
        "private_ssh_port",
        "int",
        "Port of ssh on private_address, for backups and copies between hosts. Unset: ansible_port, or 22. A host "
        "variable, where this computer reaches the host by a port of another machine.",
        example=22,
    ),
    Variable(
        "internal_tls",
        "bool",
        "Encrypt and verify what goes to database and broker. Unset: true where more than one host runs the "
        "application; on one machine nothing of it leaves it.",
        example=True,
    ),
    Variable(
        "compute_queues",
        "list",
        "Queues whose jobs a compute host takes. Unset: all of them; jvm only with escriptorium_text_alignment.",
        example=["default", "live"],
        elements="str",
    ),
    Variable(
        "compute_state",
        "str",
        "active: the workers of this compute host run. drained: they end their jobs and take no more; the host stays "
        "configured. absent: drained, then taken out of the platform. A host variable.",
        example="drained",
        choices=("active", "drained", "absent"),
        default="active",
        has_default=True,
    ),
    Variable(
        "gpu_training_memory_mib",
        "dict",
        "Memory of a GPU that one training needs at most, by kind, in MiB: slices are planned and trainings are sent "
        "by these figures. The defaults are CREMMA's: a 1g.5gb has 4864 MiB, a 2g.10gb 9856.",
        example=dict(DEFAULT_TRAINING_MEMORY),
        default=dict(DEFAULT_TRAINING_MEMORY),
        has_default=True,
        options={
            "recognition": Variable("recognition", "int", "One training of a recogniser, in MiB.", example=4800),
            "segmentation": Variable("segmentation", "int", "One training of a segmenter, in MiB.", example=9800),
        },
    ),
    Variable(
        "storage_transport",
        "str",
        "How the shared tree reaches the other hosts: nfs, or preset where the site mounts it itself.",
        example="nfs",
        choices=("nfs", "preset"),
        default="nfs",
        has_default=True,
    ),
    Variable(
        "storage_encryption",
        "str",
        "What encrypts NFS between the storage host and the others: none, for a private network that nobody else is "
        "in, or wireguard, a tunnel that the hosts make. Nothing where storage_transport is preset or one machine is "
        "the site. Of disks it says nothing.",
        example="wireguard",
        choices=("none", "wireguard"),
        default="none",
        has_default=True,
    ),
    Variable(
        "storage_encryption_network",
        "str",
        "IPv4 network of the tunnel, as large as site_private_network and used by nothing else: each host has the "
        "place there that it has in the private network.",
        example="198.18.0.0/16",
        default="198.18.0.0/16",
        has_default=True,
    ),
    Variable(
        "storage_backend",
        "str",
        "What carries the shared tree and the backups on the storage host: directory (folders of its file system) or "
        "zfs (a pool that the role zfs makes, with snapshots and quotas).",
        example="zfs",
        choices=("directory", "zfs"),
        default="directory",
        has_default=True,
    ),
    Variable(
        "storage_quotas",
        "dict",
        "Most space that each dataset may take, snapshots included. Unit: as zfs writes it, binary. Needs "
        "storage_backend zfs.",
        example={"media": "30T", "releases": "200G", "backups": "4T"},
        default={},
        has_default=True,
        options={
            "media": Variable("media", "str", "Images, models and exports.", example="30T"),
            "releases": Variable("releases", "str", "Built releases.", example="200G"),
            "backups": Variable("backups", "str", "Backups of the database.", example="4T"),
        },
    ),
    Variable(
        "storage_snapshots",
        "dict",
        "Snapshots that are kept of each dataset, by period. Needs storage_backend zfs. Unset: media 24 hourly, 30 "
        "daily, 6 monthly; releases 7 daily; backups 14 daily.",
        example={"media": {"hourly": 24, "daily": 30, "monthly": 6}},
        options={
            name: Variable(
                name,
                "dict",
                f"Snapshots of {what}.",
                example={"hourly": 24, "daily": 30},
                options={
                    period: Variable(period, "int", f"Number of {period} snapshots.", example=24)
                    for period in ("frequently", "hourly", "daily", "weekly", "monthly", "yearly")
                },
            )
            for name, what in (("media", "the media"), ("releases", "the releases"), ("backups", "the backups"))
        },
    ),
    Variable(
        "backup_enabled",
        "bool",
        "Back up the database to the storage host. false only where the site has backups of another kind, or where the "
        "two hosts run different releases of Debian: pgBackRest works between equal versions only.",
        example=True,
        default=True,
        has_default=True,
    ),
    Variable(
        "backup_targets",
        "list",
        "Where copies of media and database go, encrypted, each hour: folders of the storage host, and other machines "
        "(docs/backup.md). Unset: one folder beside the shared tree with storage_backend directory, none with zfs, "
        "where snapshots are the first line.",
        example=[{"name": "local", "type": "directory", "path": "/srv/escriptorium-backups/media"}],
        elements="dict",
        options={
            one.name: one
            for one in (
                Variable("name", "str", "Name of the target; its units and files are named after it.", required=True),
                Variable(
                    "type",
                    "str",
                    "directory: a folder of the storage host. sftp, s3, rest (restic's rest-server): another machine.",
                    required=True,
                    choices=("directory", "sftp", "s3", "rest"),
                ),
                Variable("path", "str", "directory, sftp: folder of the copies. s3: path in the bucket."),
                Variable("host", "str", "sftp: name or address of the machine.", example="backup.example.org"),
                Variable("port", "int", "sftp: port of its ssh service.", example=22),
                Variable("user", "str", "sftp: account there.", example="platform"),
                Variable(
                    "host_key", "str", "sftp: its host key, as ssh-keyscan prints it, without the name before it."
                ),
                Variable("url", "str", "s3, rest: address of the server.", example="https://s3.example.org"),
                Variable("bucket", "str", "s3: name of the bucket."),
                Variable("region", "str", "s3: region of the bucket, where the server wants one."),
                Variable(
                    "append_only",
                    "bool",
                    "The target takes copies and forgets none: no old ones are removed from here.",
                ),
                Variable(
                    "database",
                    "bool",
                    "The backups of the database are copied there too. Unset: yes, but not to a folder beside them.",
                ),
                Variable("limit_upload", "int", "Most that is sent there. Unit: KiB/s; 0: no limit.", example=2000),
                Variable(
                    "limit_hours",
                    "int",
                    "Longest time that one copy of the media takes; the next one goes on. Unit: h; 0: no limit.",
                    example=8,
                ),
                Variable(
                    "calendar", "str", "When it is copied to, as systemd reads it (OnCalendar).", example="hourly"
                ),
            )
        },
    ),
    Variable(
        "backup_target_passwords",
        "dict",
        "Logins of targets of type s3 and rest, by their names: user and password (s3: access key and secret key). "
        "Encrypt them with ansible-vault.",
        example={"elsewhere": {"user": "platform", "password": "{{ vault_backup_elsewhere }}"}},
        secret=True,
    ),
    Variable(
        "service_uid",
        "int",
        "Number of the service account on every host.",
        example=2000,
        default=2000,
        has_default=True,
    ),
    Variable(
        "service_gid",
        "int",
        "Number of the service account's group on every host.",
        example=2000,
        default=2000,
        has_default=True,
    ),
    Variable(
        "secret_postgresql_password",
        "str",
        "Password of the database account that eScriptorium uses.",
        required=True,
        secret=True,
    ),
    Variable("secret_redis_password", "str", "Password of the broker.", required=True, secret=True),
    Variable(
        "secret_django_key",
        "str",
        "Key with which Django signs sessions and password reset links, at least 50 characters.",
        required=True,
        secret=True,
    ),
    Variable(
        "secret_admin_password",
        "str",
        "Password of the first administrator account of the web application.",
        required=True,
        secret=True,
    ),
    Variable(
        "secret_backup_passphrase",
        "str",
        "Encrypts the backups of the database and the copy of the secrets beside them. Keep a copy outside the "
        "platform: without it no backup can be read.",
        required=True,
        secret=True,
    ),
    Variable(
        "secret_media_passphrase",
        "str",
        "Encrypts the copies of the media. Keep a copy outside the platform: without it no copy can be read.",
        required=True,
        secret=True,
    ),
    Variable(
        "preflight_allow_untested",
        "bool",
        "Accept Ubuntu 22.04 and 24.04, which are expected to work and are not tested.",
        example=True,
        default=False,
        has_default=True,
    ),
    Variable(
        "preflight_release_disk_gb",
        "int",
        "Free disk space in GB that a bare application host must have under /opt for releases. A host that carries a "
        "release already needs a quarter of it, for one more.",
        example=20,
        default=20,
        has_default=True,
    ),
    Variable(
        "preflight_memory_mb",
        "raw",
        "Memory in MB that a host must have at least: one number for all, or a number for each group. Unset: "
        "4000 for the frontend, 1500 for the storage host, 8000 for a compute host.",
        example={"frontend": 4000, "storage": 1500, "compute": 8000},
    ),
    Variable(
        "preflight_secrets",
        "str",
        "What the beginning of a run does about missing secrets: required (refuse) or generated (go on: the next "
        "playbook makes them, or this one needs none). Set by playbooks.",
        example="required",
        choices=("required", "generated"),
        default="required",
        has_default=True,
    ),
)
