"""Programs of the storage host that copy what users have made, and bring it back: one module each, and what they share.

``platform_backup`` (the database), ``media_backup`` (restic), ``recover_files`` and ``restore_media`` (snapshots). They
run on the host as root, or as the account of the copies; nothing is imported by Ansible. Standard library only; imports
within the package are relative.
"""
