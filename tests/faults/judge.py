"""Damages a library again and again and judges what the readers do: a script, so that a crash is seen as one.

    python judge.py LIBRARY FOLDER FIRST LAST

prints a line of JSON for each seed from FIRST to LAST: `{"seed", "file", "what", "sealed", "outcome", "told"}`. The
outcome is "refused" (an error of ours that names the file), "equal" (all that was read is as it was written) or a
finding.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from mutations import damage

from temimagenet import TEMImageNet
from temimagenet.errors import TEMImageNetError
from temimagenet.recipe import spec_to_json
from temimagenet.storage import verify_library

LABELS = ("noNoise", "noBackgroundnoNoise", "gaussianMask", "noNoiseUpinterpolation2x", "position")


def digest_of(sample, labels=LABELS) -> str:
    """A digest of everything that a sample holds."""
    columns = sample.columns
    parts = [sample.image, *(sample.labels[name] for name in labels)]
    arrays = [part.numpy() for part in parts]
    arrays += [columns.xy_px, columns.weight_A2, columns.atoms, columns.kind, sample.row_shift_A]
    if columns.crlb_A is not None:
        arrays.append(columns.crlb_A)
    text = f"{spec_to_json(sample.spec)} {columns.kinds} {sample.dose_e_per_A2} {sample.clean_peak} {sample.engine}"
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_all(root: Path, limit: dict[str, str] | None = None) -> dict[str, str]:
    """Digests of every sample by identity; of those alone that lie in a shard, where it is named."""
    data = TEMImageNet(root, split=None, labels=LABELS)
    found = {}
    for index in range(len(data)):
        if limit is None or data.catalogue["shard"].iat[index] in limit:
            sample = data[index]
            found[sample.id] = digest_of(sample)
    return found


def judge(root: Path, outside: Path, truth: dict[str, str], seed: int) -> dict[str, object]:
    """One library damaged and read."""
    name, what, sealed = damage(root, outside, seed)
    stem = Path(name).with_suffix("").as_posix()
    touched = {f"{stem}.h5": ""} if name.startswith("shards/") else None
    outcome, told = "equal", ""
    if not sealed:
        # What no digest was made for must not pass the check of the whole library.
        try:
            verify_library(root)
            outcome = "not noticed"
        except TEMImageNetError as error:
            # A manifest has no digest of its own: what it says wrongly is told of the file that it says it of.
            named = Path(name).stem in str(error) or name == "manifest.json"
            outcome, told = ("refused" if named else "another file named"), str(error)
        except Exception as error:
            outcome, told = "another error", repr(error)
    try:
        found = read_all(root, touched)
        wrong = [key for key, value in found.items() if truth.get(key) != value]
        if wrong:
            outcome, told = "wrong", f"{wrong[0]} differs"
        elif outcome == "not noticed" and name == "manifest.json":
            # The manifest has no digest of its own: what of it is not read may differ.
            outcome = "equal"
    except TEMImageNetError as error:
        told = str(error)
        # A catalogue or manifest that fits no shard is told with the shard, a shard with its sidecar.
        named = Path(name).stem in told or "catalogue" in told or name == "manifest.json"
        outcome = outcome if outcome not in ("equal", "refused", "not noticed") else "refused"
        outcome = outcome if named else "another file named"
    except Exception as error:
        outcome, told = "another error", repr(error)
    return {"seed": seed, "file": name, "what": what, "sealed": sealed, "outcome": outcome, "told": told[:300]}


def main() -> None:
    """All seeds, each on a fresh copy."""
    library, folder, first, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    # A file that fills the memory is a finding, not the end of the machine.
    resource.setrlimit(resource.RLIMIT_DATA, (6 * 2**30, 6 * 2**30))
    folder.mkdir(parents=True, exist_ok=True)
    outside = folder / f"outside-{os.getpid()}.h5"
    import h5py

    with h5py.File(outside, "w") as file:
        file["secret"] = np.arange(4096.0)
    truth = read_all(library)
    root = folder / f"copy-{os.getpid()}"
    before = outside.read_bytes()
    for seed in range(first, last):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(library, root)
        print(json.dumps({"seed": seed, "outcome": "begun"}), flush=True)
        print(json.dumps(judge(root, outside, truth, seed)), flush=True)
        if outside.read_bytes() != before:
            print(json.dumps({"seed": seed, "outcome": "outside touched"}), flush=True)
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
