"""Puts a library on the Hugging Face Hub: what is not there yet, in one commit, with a dataset card and a tag."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCardData, HfApi, RepoFile
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from temimagenet.bar import progress_bar
from temimagenet.errors import HubError
from temimagenet.labels import LABELS, MAPS, POINTS
from temimagenet.storage import read_catalogue, verify_library
from temimagenet.storage.library import CATALOGUE, MANIFEST, open_shard, read_manifest
from temimagenet.storage.remote import RemoteLibrary
from temimagenet.storage.shard import sha256_of

__all__ = ["Publication", "dataset_card", "plan_publication", "publish"]

BATCH_FILES = 16
"""Files sent before the next are prepared; what was sent is not sent again after an interruption."""

_CARD = "README.md"
_KIND = "dataset"
_OWN = ("shards/", "weights/", CATALOGUE, MANIFEST, "recipe.json", _CARD)
"""What a publication may replace or remove: other files of the repository are left alone."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class Publication:
    """What publishing will do.

    Attributes:
        repo: owner/name.
        tag: name of the version.
        head: commit that the repository is at; None where there is no repository yet.
        upload: files to send: path in the repository, content's path or bytes, number of bytes.
        kept: paths that are there already, equal.
        delete: paths of earlier versions that this one does not have.
        tagged: whether the tag is there and stands for this very content.
    """

    repo: str
    tag: str
    head: str | None
    upload: tuple[tuple[str, Path | bytes, int], ...]
    kept: tuple[str, ...]
    delete: tuple[str, ...]
    tagged: bool

    @property
    def bytes(self) -> int:
        """Bytes to send at most."""
        return sum(size for _, _, size in self.upload)


def shipped_weights() -> list[Path]:
    """Weights that come with the package."""
    folder = Path(str(resources.files("temimagenet") / "data" / "weights"))
    return sorted(folder.glob("*.safetensors"))


def plan_publication(
    root: Path, repo: str, *, tag: str | None = None, weights: Sequence[Path] = (), api: HfApi | None = None
) -> Publication:
    """Compare a library with a repository, by checksums: nothing is sent.

    Args:
        root: the library's folder; every file is compared with its manifest first.
        repo: owner/name.
        tag: name of the version; "v" and the manifest's version unless told.
        weights: weights to publish along.
        api: the Hub's client; that of HF_ENDPOINT and HF_TOKEN unless told.

    Raises:
        ShardError: the library is unfinished or damaged.
        HubError: the Hub cannot be reached, the repository holds a library of another name, or the tag stands for other
            content.
    """
    verify_library(root)
    manifest = read_manifest(root)
    tag = tag or f"v{manifest['version']}"
    card = dataset_card(root, repo, tag).encode()
    local: dict[str, Path | bytes] = {name: root / name for name in sorted(manifest["files"])}
    local |= {f"weights/{path.name}": path for path in weights}
    local |= {MANIFEST: root / MANIFEST, _CARD: card}
    with _told(repo):
        api = api or HfApi()
        head, there = _repository(api, repo)
        if MANIFEST in there:
            told = RemoteLibrary(f"hf://{repo}", head).manifest()["name"]
            if told != manifest["name"]:
                raise HubError(f"{repo} holds library {told!r}, which {manifest['name']!r} would replace: name another")
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo, repo_type=_KIND).tags} if head else {}
    upload, kept = [], []
    for name, content in local.items():
        if name in there and _same(content, there[name], manifest["files"].get(name, {}).get("sha256")):
            kept.append(name)
        else:
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            upload.append((name, content, size))
    delete = [name for name in there if name not in local and name.startswith(_OWN)]
    if tag in tags and (upload or delete or tags[tag] != head):
        raise HubError(
            f"{repo}: tag {tag} stands for other content (commit {tags[tag][:12]}); versions do not change: raise the "
            "version, or give another --tag"
        )
    return Publication(repo, tag, head, tuple(upload), tuple(kept), tuple(delete), tag in tags)


def publish(plan: Publication, *, private: bool = False, api: HfApi | None = None) -> str:
    """Send what is planned, make it one commit and tag it. Run again after an interruption, it goes on.

    Files are sent in batches before the commit: readers see the old version or the new one, nothing between.

    Args:
        plan: from `plan_publication`.
        private: whether a new repository is private.
        api: the Hub's client; that of HF_ENDPOINT and HF_TOKEN unless told.

    Returns:
        The commit.

    Raises:
        HubError: the Hub refuses or cannot be reached, or the repository changed since it was planned.
    """
    with _told(plan.repo), _one_bar(), progress_bar(of_bytes=True) as progress:
        api = api or HfApi()
        if plan.head is None:
            api.create_repo(plan.repo, repo_type=_KIND, private=private, exist_ok=True)
        commit = plan.head
        if plan.upload or plan.delete:
            bar = progress.add_task(f"publishing {plan.repo}", total=plan.bytes)
            additions = [CommitOperationAdd(name, content) for name, content, _ in plan.upload]
            for start in range(0, len(additions), BATCH_FILES):
                batch = additions[start : start + BATCH_FILES]
                # The objects keep digests and forget contents; small files go with the commit.
                api.preupload_lfs_files(plan.repo, batch, repo_type=_KIND, free_memory=False)
                progress.advance(bar, sum(size for _, _, size in plan.upload[start : start + BATCH_FILES]))
            deletions = [CommitOperationDelete(name) for name in plan.delete]
            commit = api.create_commit(
                plan.repo,
                [*additions, *deletions],
                repo_type=_KIND,
                commit_message=f"{plan.tag}: {len(additions)} files new or changed, {len(deletions)} removed",
                parent_commit=plan.head,
            ).oid
        assert commit is not None
        if not plan.tagged:
            api.create_tag(plan.repo, tag=plan.tag, revision=commit, repo_type=_KIND)
        return commit


def _repository(api: HfApi, repo: str) -> tuple[str | None, dict[str, RepoFile]]:
    """The commit that a repository is at, and its files."""
    try:
        head = api.repo_info(repo, repo_type=_KIND).sha
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None, {}
    items = api.list_repo_tree(repo, recursive=True, revision=head, repo_type=_KIND)
    return head, {item.path: item for item in items if isinstance(item, RepoFile)}


def _same(content: Path | bytes, there: RepoFile, sha256: str | None) -> bool:
    """Whether a file on the Hub has the same content: large ones by SHA-256, small ones by git's own digest."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size != there.size:
        return False
    if there.lfs is not None:
        if sha256 is None:
            sha256 = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_of(content)
        return bool(there.lfs.sha256 == sha256)
    data = content if isinstance(content, bytes) else content.read_bytes()
    return bool(there.blob_id == hashlib.sha1(b"blob %d\0" % size + data).hexdigest())


@contextmanager
def _one_bar() -> Iterator[None]:
    """The client's own bars, one a file, stay away while ours is shown."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """What the Hub's client raises, as one of our errors."""
    try:
        yield
    except HubError:
        raise
    except HFValidationError as error:
        raise HubError(f"{repo!r}: expected owner/name ({error})") from error
    except Exception as error:
        raise HubError(f"{repo}: {error}; run again to go on") from error


def dataset_card(root: Path, repo: str, tag: str) -> str:
    """The dataset card: YAML that the Hub reads, what the library holds, how to load and cite it."""
    manifest, catalogue = read_manifest(root), read_catalogue(root)
    size = sum(facts["bytes"] for facts in manifest["files"].values())
    features = [
        {"name": field.name, "dtype": _feature(str(field.type))}
        for field in pq.read_schema(root / CATALOGUE)
        if str(field.type) != "null"
    ]
    head = DatasetCardData(
        pretty_name=f"TEMImageNet {manifest['name']}",
        license=str(manifest["licence"]).lower(),
        task_categories=["image-segmentation", "image-to-image", "object-detection"],
        tags=["electron microscopy", "STEM", "materials science", "atoms", "simulation"],
        size_categories=next((name for most, name in _SIZES if len(catalogue) < most), "1M<n<10M"),
        configs=[{"config_name": "catalogue", "data_files": CATALOGUE, "default": True}],
        dataset_info={"config_name": "catalogue", "features": features},
    )
    engine = "linear" if "linear" in set(catalogue["engine"]) else str(catalogue["engine"].iat[0])
    there = set(catalogue.loc[catalogue["engine"] == engine, "split"])
    split = next(name for name in ("train", "test", "heldout") if name in there)
    labels, origin = _labels_of(root, str(catalogue["shard"].iat[0]), manifest["files"])
    shown = next((name for name in ("gaussianMask", *MAPS) if name in labels), None)
    options = "".join(
        f', {name}="{value}"'
        for name, value, usual in (("split", split, "train"), ("engine", engine, "linear"))
        if value != usual
    )
    counts = catalogue.groupby(["engine", "split"]).size().unstack(fill_value=0)
    splits = list(counts.columns)
    rows = "\n".join(
        f"| {engine} | " + " | ".join(f"{int(row[split]):,}" for split in splits) + " |"
        for engine, row in counts.iterrows()
    )
    entries = ", ".join(sorted(str(entry) for entry in catalogue["entry"].unique()))
    return f"""---
{head}
---

# TEMImageNet {manifest["name"]}

Atomic-resolution ADF-STEM images that know where every atomic column is: {len(catalogue):,} images,
{size / 1e6:,.0f} MB, version {tag}. A row of `{CATALOGUE}` tells what each image is.

| engine | {" | ".join(splits)} |
| --- |{" ---: |" * len(splits)}
{rows}

Specimens: {entries}.

## Load

```sh
pip install 'temimagenet[hub]'
```

```python
from temimagenet import TEMImageNet

labels = {json.dumps([shown, "position"] if shown else ["position"])}
data = TEMImageNet("hf://{repo}", labels=labels{options}, download=True, revision="{tag}")
stream = TEMImageNet("hf://{repo}", labels=labels{options}, streaming=True, revision="{tag}")
sample = data[0]  # sample.image, sample.labels, sample.columns, sample.spec
```

A download fetches only the arrays and rows that are asked for; every byte is compared with its checksum.

## Content

| file | what |
| --- | --- |
| `{CATALOGUE}` | a row an image: specimen, optics, field, noise, split, where it lies |
| `shards/*.h5` | {origin}, in HDF5 |
| `shards/*.json` | where each array of each image lies in its shard, with checksums |
| `{MANIFEST}` | SHA-256 of every file |
| `weights/*.safetensors` | networks trained on such images |

Labels: {", ".join(f"`{name}`" for name in labels)}. Those that a shard does not store are drawn on reading.

## Licence and citation

{manifest["licence"]}. {manifest["citation"]}

```bibtex
@article{{lin2021temimagenet,
  title = {{TEMImageNet training library and AtomSegNet deep-learning models for high-precision atom segmentation,
           localization, denoising, and deblurring of atomic-resolution images}},
  author = {{Lin, Ruoqian and Zhang, Rui and Wang, Chunyang and Yang, Xiao-Qing and Xin, Huolin L.}},
  journal = {{Scientific Reports}}, volume = {{11}}, pages = {{5386}}, year = {{2021}},
  doi = {{10.1038/s41598-021-84499-w}}
}}
```
"""


def _labels_of(root: Path, shard: str, files: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """Labels that the samples of a library have, and what its shards hold, in words."""
    with open_shard(root, shard, files) as first:
        if first.spec(0).specimen.kind != "unknown":
            return LABELS, "images (electron counts), clean images, columns, Fourier series, specifications"
        maps = first.stored_maps
    return tuple(name for name in LABELS if name in (*maps, *POINTS)), "images, labels and columns that others made"


def _feature(kind: str) -> str:
    """An Arrow type as the Hub spells it."""
    return {"double": "float64", "float": "float32", "large_string": "string"}.get(kind, kind)
