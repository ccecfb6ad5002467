"""What the module `host_config` decides and does on a host: files, and the units that run from them."""
