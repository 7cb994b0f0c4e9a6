# SPDX-License-Identifier: Apache-2.0
"""Runs other programs and makes one line of their complaints."""

import subprocess

from .problem import Problem


def run(command, what, **options):
    """Runs a tool; a failure becomes one line that ends with the tool's own last word."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except FileNotFoundError:
        raise Problem(f"{command[0]} is not installed: run `make packages`") from None
    if done.returncode != 0:
        text = done.stderr or done.stdout
        cure = "; free some disk space" if "No space left" in text or "free space" in text else ""
        raise Problem(f"{what}: {last_line(text)}{cure}")
    return done.stdout


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
