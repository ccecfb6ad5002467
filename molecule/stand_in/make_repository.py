"""Makes a git repository of the stand-in, so that a deployment can clone it like the real application.

    make_repository.py TARGET_DIR

Prints the commit. The same content gives the same commit on every machine, because author, dates, branch and message
are fixed and the user's own git settings are not read. Safe to repeat: an unchanged repository is left alone; a
changed one is made anew and put in the place of the old one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: What belongs to the application, relative to this folder.
CONTENT = ("README.md", "app", "front")
#: Made by running or building it; never part of it.
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "dist", "node_modules", "*.log", "*.egg-info")
BRANCH = "main"
MESSAGE = "Stand-in application"
#: Marks a repository as made by this program, so that no other folder is ever replaced.
MARK = "made-by-stand-in"
ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "Stand-in",
    "GIT_AUTHOR_EMAIL": "stand-in@example.org",
    "GIT_AUTHOR_DATE": "2025-01-01T00:00:00+00:00",
    "GIT_COMMITTER_NAME": "Stand-in",
    "GIT_COMMITTER_EMAIL": "stand-in@example.org",
    "GIT_COMMITTER_DATE": "2025-01-01T00:00:00+00:00",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints.

    :raises subprocess.CalledProcessError: when git fails.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "core.autocrlf=false", "-c", "core.fileMode=true", *arguments]
    result = subprocess.run(
        command, cwd=folder, env={**environment, **ENVIRONMENT}, check=True, stdout=subprocess.PIPE, text=True
    )
    return result.stdout.strip()


def copy_content(source: Path, target: Path) -> None:
    """Copy the application's files with one of two modes: 0644, or 0755 for programs."""
    for name in CONTENT:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=IGNORED)
        else:
            shutil.copy2(source / name, target / name)
    for path in target.rglob("*"):
        if path.is_file():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def make_repository(source: Path, target: Path) -> str:
    """Make the repository and return the commit's identifier (40 hexadecimal digits).

    :raises FileExistsError: when the target is there and was not made by this program.
    """
    if target.exists() and any(target.iterdir()) and not (target / ".git" / MARK).is_file():
        raise FileExistsError(f"{target} exists and was not made by this program")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".stand-in-") as temporary:
        fresh = Path(temporary) / "repository"
        fresh.mkdir()
        copy_content(source, fresh)
        git(fresh, "init", "--quiet", "--object-format=sha1", f"--initial-branch={BRANCH}", "--template=")
        git(fresh, "add", "--force", "--all")
        git(fresh, "commit", "--quiet", "--no-gpg-sign", "--message", MESSAGE)
        commit = git(fresh, "rev-parse", "HEAD")
        (fresh / ".git" / MARK).write_text(commit + "\n")
        if (target / ".git" / MARK).is_file() and git(target, "rev-parse", "HEAD") == commit:
            return commit
        if target.exists():
            target.rename(Path(temporary) / "old")
        fresh.chmod(0o755)
        fresh.rename(target)
    return commit


def main() -> int:
    """Run the command; returns the exit status."""
    if len(sys.argv) != 2:
        print("usage: make_repository.py TARGET_DIR", file=sys.stderr)
        return 2
    try:
        print(make_repository(HERE, Path(sys.argv[1]).resolve()))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"make_repository.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
