"""A collection: samples of a library chosen on its website, as a JSON manifest of identities and checksums."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pandas as pd

from temimagenet.errors import DatasetError, ShardError
from temimagenet.storage.library import read_catalogue, read_manifest
from temimagenet.storage.shard import sha256_of

__all__ = ["COLLECTION_SCHEMA", "FORMAT", "read_collection"]

FORMAT = "temimagenet-collection"
COLLECTION_SCHEMA = 1

_TIMEOUT_S = 30.0
_SHOWN = 3


def read_collection(source: str | Path, root: Path, *, verify: bool = False) -> pd.DataFrame:
    """Rows of a library's catalogue that a collection names, in its order.

    Args:
        source: path or http(s) address of the manifest.
        root: the library's folder.
        verify: also hash every shard that the collection names.

    Raises:
        DatasetError: the manifest cannot be read, is of another library or version, or names samples that the library
            does not have.
        ShardError: a shard or a sample has another checksum than in the collection, or the library cannot be read.
    """
    wanted = _read(source)
    manifest = read_manifest(root)
    for key, own in (("library", manifest["name"]), ("version", manifest["version"])):
        if wanted[key] != own:
            raise DatasetError(
                f"{source} is of {key} {wanted[key]!r}, {root} holds {own!r}: point root= to the library it was made of"
            )
    for name, facts in wanted["shards"].items():
        _check_shard(source, root, name, facts["sha256"], manifest["files"], verify)
    return _rows(source, root, wanted["samples"])


def _read(source: str | Path) -> dict[str, Any]:
    """The manifest's content, once its form is checked."""
    try:
        if str(source).startswith(("http://", "https://")):
            with urllib.request.urlopen(str(source), timeout=_TIMEOUT_S) as reply:
                text = reply.read().decode()
        else:
            text = Path(source).read_text(encoding="utf-8")
        wanted = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"collection {source} cannot be read: {error}") from error
    if not isinstance(wanted, dict) or wanted.get("format") != FORMAT:
        raise DatasetError(f"{source} is no collection: expected JSON whose format is {FORMAT!r}")
    schema = wanted.get("schema")
    if not isinstance(schema, int) or schema > COLLECTION_SCHEMA:
        raise DatasetError(
            f"{source}: schema {schema}, this version of temimagenet reads up to {COLLECTION_SCHEMA}; upgrade it"
        )
    try:
        shards = {str(name): {"sha256": str(facts["sha256"])} for name, facts in wanted["shards"].items()}
        fields = ("id", "engine", "shard", "sha256")
        samples = [{field: str(sample[field]) for field in fields} for sample in wanted["samples"]]
        found = {"library": wanted["library"], "version": wanted["version"], "shards": shards, "samples": samples}
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{source}: damaged collection ({error!r}); make it anew") from error
    if not samples:
        raise DatasetError(f"{source}: an empty collection; choose samples and make it anew")
    return found


def _check_shard(
    source: str | Path, root: Path, name: str, digest: str, files: dict[str, dict[str, Any]], verify: bool
) -> None:
    """Whether the library has the very shard that the collection was made of."""
    if name not in files:
        raise DatasetError(f"{source} names shard {name}, which {root} does not have")
    found = sha256_of(root / name) if verify and (root / name).is_file() else files[name]["sha256"]
    if found != digest:
        raise ShardError(
            f"{root / name}: SHA-256 is {found}, {source} says {digest}; the library was rendered anew or is damaged"
        )


def _rows(source: str | Path, root: Path, samples: list[dict[str, str]]) -> pd.DataFrame:
    """The catalogue's rows of the samples, their checksums compared."""
    catalogue = read_catalogue(root)
    place = {(row.id, row.engine): at for at, row in enumerate(catalogue[["id", "engine"]].itertuples(index=False))}
    keys = [(sample["id"], sample["engine"]) for sample in samples]
    unknown = [f"{identity} ({engine})" for identity, engine in keys if (identity, engine) not in place]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise DatasetError(f"{source} names samples that {root} does not have: {', '.join(unknown[:_SHOWN])}{more}")
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DatasetError(f"{source} names sample {twice[0]} ({twice[1]}) twice")
    chosen = catalogue.iloc[[place[key] for key in keys]].reset_index(drop=True)
    for sample, shard, digest in zip(samples, chosen["shard"], chosen["sha256"], strict=True):
        if (shard, digest) != (sample["shard"], sample["sha256"]):
            raise ShardError(
                f"{root}: sample {sample['id']} ({sample['engine']}) has SHA-256 {digest} in {shard}, "
                f"{source} says {sample['sha256']} in {sample['shard']}; the library was rendered anew"
            )
    return chosen
