"""Management commands of the cluster package."""
