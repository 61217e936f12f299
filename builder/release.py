"""Checks a release: wheel and sdist, the README and a published library with only the wheel, dependencies, licences.

`make release-check` runs it. What it leaves in `dist/`: the distributions, the versions that the wheel was tried with
(`constraints-3.11.txt` for Python 3.11) and their licences (`licences.csv`).
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.newcomer import small_library, try_library
from temimagenet.errors import TEMImageNetError

__all__ = [
    "ReleaseError",
    "Weight",
    "check_release",
    "closure",
    "extras",
    "is_gpl",
    "licence_of",
    "readme_example",
    "write_licences",
]

CHECKOUT = Path(__file__).resolve().parents[1]

MOST_BYTES = 40 * 10**6
"""Of the wheel and of the sdist."""

_GPL = re.compile(r"(?<!L)(?<!LESSER )(?<!Lesser )\bA?GPL|(?<!Lesser )General Public License", re.IGNORECASE)


class ReleaseError(TEMImageNetError):
    """Something that keeps a release from being made."""


@dataclass(frozen=True)
class Weight:
    """What an extra installs beyond what the package itself does.

    Attributes:
        packages: how many distributions.
        bytes: size of their files.
        missing: distributions that are not installed here, so that neither they nor what they need is counted.
    """

    packages: int
    bytes: int
    missing: tuple[str, ...]


def closure(requirements: Iterable[str], extra: str = "") -> tuple[set[str], set[str]]:
    """Names of all distributions that requirements need, installed ones and those that are not.

    Args:
        requirements: as in a distribution's metadata.
        extra: which extra's requirements to take of these; none unless given.
    """
    found: set[str] = set()
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(text, extra) for text in requirements]
    while waiting:
        text, chosen = waiting.pop()
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": chosen}):
            continue
        name = canonicalize_name(wanted.name)
        for each in ("", *wanted.extras):
            if (name, each) in seen:
                continue
            seen.add((name, each))
            try:
                needs = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                missing.add(name)
                continue
            found.add(name)
            waiting += [(need, each) for need in needs]
    return found, missing


def extras() -> dict[str, Weight]:
    """What each extra adds, by what is installed here; "" is the package's own needs."""
    needs = metadata.requires("temimagenet") or []
    names = metadata.metadata("temimagenet").get_all("Provides-Extra") or []
    base, lacking = closure(needs)
    told = {"": Weight(len(base), sum(map(_bytes_of, base)), tuple(sorted(lacking)))}
    for name in names:
        more, lacking = closure(needs, name)
        told[name] = Weight(len(more - base), sum(map(_bytes_of, more - base)), tuple(sorted(lacking)))
    return told


def _bytes_of(name: str) -> int:
    """Size of a distribution's installed files."""
    return sum(file.size or 0 for file in metadata.files(name) or ())


def licence_of(name: str) -> str:
    """A distribution's licence in a line: its expression, its classifiers or the first line of its text."""
    # A message as mail has them; its type hides `get`.
    told: Any = metadata.metadata(name)
    if expression := told.get("License-Expression"):
        return str(expression)
    classified = [line.rsplit(" :: ", 1)[-1] for line in told.get_all("Classifier") or () if "License ::" in line]
    text = str(told.get("License") or "").strip().splitlines()
    return "; ".join(classified) or (text[0] if text else "not told")


def is_gpl(licence: str) -> bool:
    """Whether a licence is the GNU General Public License, not the Lesser one, or one that leaves no other choice."""
    choices = re.split(r"\bOR\b", licence)
    return all(_GPL.search(choice) is not None for choice in choices)


def readme_example() -> str:
    """The README's first Python lines."""
    return str(re.findall(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0])


def check_release(out: Path) -> list[str]:
    """Build, check and try a release.

    Args:
        out: folder of the distributions.

    Returns:
        What was found, a line each.

    Raises:
        ReleaseError: something keeps it from being released.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("temimagenet-*.whl"), *out.glob("temimagenet-*.tar.gz")):
        old.unlink()
    _run(sys.executable, "-m", "build", "--outdir", str(out), str(CHECKOUT))
    wheel, sdist = next(out.glob("*.whl")), next(out.glob("*.tar.gz"))
    for file in (wheel, sdist):
        if file.stat().st_size > MOST_BYTES:
            raise ReleaseError(f"{file}: {file.stat().st_size / 1e6:.1f} MB, expected at most {MOST_BYTES / 1e6:.0f}")
    _run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    lines = [f"{file.name}: {file.stat().st_size / 1e6:.1f} MB, twine check passed" for file in (wheel, sdist)]
    lines += write_licences(out / "licences.csv")
    lines += _tried(wheel, out)
    return lines


def write_licences(path: Path) -> list[str]:
    """Write the licences of everything that is needed to run or asked for by an extra; GPL ones are told."""
    needs = metadata.requires("temimagenet") or []
    names = metadata.metadata("temimagenet").get_all("Provides-Extra") or []
    base, missing = closure(needs)
    if missing:
        raise ReleaseError(f"not installed here, so licences cannot be told: {', '.join(sorted(missing))}")
    wanted_by: dict[str, list[str]] = {name: ["the package"] for name in base}
    for extra in names:
        for name in closure(needs, extra)[0] - base:
            wanted_by.setdefault(name, []).append(extra)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["distribution", "version", "licence", "needed by"])
        for name in sorted(wanted_by):
            writer.writerow([name, metadata.version(name), licence_of(name), " ".join(wanted_by[name])])
    gpl = {name: who for name, who in sorted(wanted_by.items()) if is_gpl(licence_of(name))}
    forced = [name for name, who in gpl.items() if who == ["the package"]]
    if forced:
        raise ReleaseError(f"needed to run and under the GPL: {', '.join(forced)}")
    untold = [name for name in wanted_by if licence_of(name) == "not told"]
    told = "; ".join(f"{name} ({' '.join(who)})" for name, who in gpl.items())
    return [
        f"{len(base)} distributions needed to run, none of them under the GPL; {len(wanted_by)} with all extras",
        f"under the GPL: {told or 'none'}; licence not told: {', '.join(untold) or 'none'}",
    ]


def _tried(wheel: Path, out: Path) -> list[str]:
    """Install the wheel into an environment that has PyTorch and nothing else; run the README, use a library."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(sys.executable, "-m", "venv", str(folder / "venv"))
        python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        site = Path(_run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        linked = _link("torch", site)
        # Neither the checkout nor what leads to it may be seen.
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        clean["XDG_CACHE_HOME"] = str(folder / "cache")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        pinned_torch = str(CHECKOUT / "constraints.txt")
        installing = {**clean, "XDG_CACHE_HOME": cache}
        _run(*pip, "install", "--quiet", "-c", pinned_torch, str(wheel.resolve()), cwd=folder, env=installing)
        (folder / "example.py").write_text(readme_example(), encoding="utf-8")
        printed = _run(str(python), "example.py", cwd=folder, env=clean)
        if "torch.Size([4, 1, 256, 256])" not in printed:
            raise ReleaseError(f"the README's first lines printed {printed!r}")
        frozen = _run(*pip, "freeze", "--exclude", "temimagenet", cwd=folder, env=clean)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        pinned = out / f"constraints-{version}.txt"
        pinned.write_text("".join(f"{line}\n" for line in frozen.splitlines() if " @ " not in line), encoding="utf-8")
        size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file() and not file.is_symlink())
        hub = f"temimagenet[hub] @ {wheel.resolve().as_uri()}"
        _run(*pip, "install", "--quiet", "-c", pinned_torch, hub, cwd=folder, env=installing)
        (folder / "away").mkdir()
        used = try_library(python, small_library(folder), folder / "away", CHECKOUT, clean)
    return [
        f"the README's first lines run with only the wheel, Python {version}, {len(frozen.splitlines())} distributions "
        f"({pinned.name}): {', '.join(linked)} as installed already, the others take {size / 1e6:.0f} MB",
        *(f"a library served on this machine, with the wheel's extra hub: {line}" for line in used),
    ]


def _link(name: str, site: Path) -> list[str]:
    """Show an environment a distribution that is installed here, alone: its own folders, nothing that it needs."""
    own = {file.parts[0] for file in metadata.files(name) or () if file.parts[0] not in ("..", "__pycache__")}
    for part in sorted(own):
        (site / part).symlink_to(Path(str(metadata.distribution(name).locate_file(part))))
    return [f"{name} {metadata.version(name)}"]


def _run(*command: str, cwd: Path = CHECKOUT, env: dict[str, str] | None = None) -> str:
    """What a command prints.

    Raises:
        ReleaseError: it fails; the message ends with what it told.
    """
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command[:4])} failed: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
