"""`python -m benchmarks export`: a tree that knows its commit, where there is no git history."""

import sys
from argparse import Namespace
from pathlib import Path

from benchmarks.harness.commands import Subparsers, UsageError
from benchmarks.harness.commit import commit_of, write_stamp
from benchmarks.harness.trees import ask_git, copy_tree, extract


def add(subparsers: Subparsers) -> None:
    """The command line of `export`."""
    parser = subparsers.add_parser(
        "export", help="write a commit, stamped, to a folder that ab takes as BASE"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="must not exist yet")
    parser.add_argument("revision", nargs="?", metavar="COMMIT", help="default: the working tree")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Write the tree and its stamp."""
    root, folder = arguments.root, arguments.folder
    if folder.exists():
        raise UsageError(f"{folder} exists; name a new folder, so that two trees are never mixed")
    if arguments.revision is None:
        commit = commit_of(root)
        copy_tree(root, folder)
    else:
        commit = ask_git(root, "rev-parse", "--short=12", "--verify", arguments.revision)
        if commit is None:
            raise UsageError(f"{arguments.revision!r} is no commit of {root}")
        extract(root, commit, folder)
    write_stamp(folder, commit)
    sys.stdout.write(f"{folder}: commit {commit}\n")
    return 0
