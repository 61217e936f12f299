"""A library as machines read it: schema.org JSON-LD for search engines, Croissant 1.0, the index of the site's data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin

import numpy as np
import pandas as pd

from builder.browse_index import INDEX, INDEX_SCHEMA
from builder.citation import CITATION_FILE, Citation
from builder.fields import ARRAYS, FIELDS, unit_of
from builder.samples import FOLDER as SAMPLES
from builder.samples import RECORD_SCHEMA
from builder.statistics import SPLITS
from temimagenet.labels import LABELS
from temimagenet.storage.collection import COLLECTION_SCHEMA
from temimagenet.storage.library import CATALOGUE, MANIFEST, RECIPE

__all__ = ["API", "CROISSANT", "SCHEMAS", "Addresses", "api_index", "croissant", "json_ld"]

CROISSANT = "croissant.json"
API = "api.json"
SCHEMAS = "schemas"

_API_SCHEMA = 1
_LICENCES = {"CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/"}
_DESCRIPTION = (
    "Simulated atomic-resolution annular dark-field (ADF) STEM images of crystals, layers, nanoparticles and amorphous "
    "films, with scan noise, shot noise and background, and ten ground-truth labels each: masks, clean and "
    "superresolved images, and the position of every atomic column."
)
_KEYWORDS = (
    "electron microscopy", "STEM", "annular dark field", "atomic resolution", "ground truth", "segmentation",
    "localization", "denoising", "multislice",
)  # fmt: skip
_TYPES = {
    ".h5": "application/x-hdf5",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
}
_RANGES = ("psnr_dB", "dose_e_per_A2", "columns", "pixel_size_A", "field_of_view_A", "scan_sigma_A", "energy_keV")
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification of Croissant 1.0 gives, word for word: consumers compare it."""


@dataclass(frozen=True)
class Addresses:
    """Where a site and its library are.

    Attributes:
        site: address of the site, ending in a slash; empty where it is not known, and then all addresses are relative.
        data: address of the library, ending in a slash, absolute or relative to the site.
    """

    site: str
    data: str

    def page(self, name: str) -> str:
        """Address of a file of the site."""
        return urljoin(self.site, name)

    def file(self, name: str) -> str:
        """Address of a file of the library."""
        return urljoin(self.site, self.data + quote(name))


def json_ld(
    manifest: dict[str, Any],
    catalogue: pd.DataFrame,
    citation: Citation,
    addresses: Addresses,
    labels: Sequence[str] = LABELS,
) -> str:
    """The library, whose samples have `labels`, as a schema.org/Dataset, safe inside a script element."""
    facts = {
        "@context": "https://schema.org",
        **_dataset(manifest, citation, addresses),
        "citation": _article(citation),
        "isAccessibleForFree": True,
        "measurementTechnique": "annular dark-field scanning transmission electron microscopy, simulated",
        "variableMeasured": _variables(catalogue, labels),
        "size": f"{sum(file['bytes'] for file in manifest['files'].values()) / 1e6:.0f} MB",
        "distribution": [
            *(
                {
                    "@type": "DataDownload",
                    "name": name,
                    "contentUrl": addresses.file(name),
                    "encodingFormat": _kind(name),
                    "contentSize": f"{file['bytes']} B",
                    "sha256": file["sha256"],
                }
                for name, file in manifest["files"].items()
            ),
            {
                "@type": "DataDownload",
                "name": CROISSANT,
                "contentUrl": addresses.page(CROISSANT),
                "encodingFormat": "application/ld+json",
            },
        ],
    }
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def croissant(
    manifest: dict[str, Any], catalogue: pd.DataFrame, citation: Citation, addresses: Addresses
) -> dict[str, Any]:
    """The library in Croissant 1.0: its files with checksums, and the catalogue as records.

    Arrays stay in HDF5, of which Croissant has no reader: `shard` and `row` of a record say where they lie. Parquet
    goes by the name that the specification gives it, which is older than the registered one.
    """
    records = "samples"
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{records}/{name}",
            "name": name,
            "description": _described(name),
            "dataType": ["sc:Text", "cr:Split"] if name == "split" else _data_type(catalogue[name]),
            "source": {"fileObject": {"@id": CATALOGUE}, "extract": {"column": name}},
            **({"references": {"field": {"@id": "splits/name"}}} if name == "split" else {}),
        }
        for name in catalogue.columns
    ]
    return {
        "@context": _CONTEXT,
        **_dataset(manifest, citation, addresses),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "citeAs": citation.bibtex,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": name,
                "name": name,
                "description": _told(name),
                "contentUrl": addresses.file(name),
                "encodingFormat": _kind(name).replace("vnd.apache.parquet", "x-parquet"),
                "contentSize": f"{file['bytes']} B",
                "sha256": file["sha256"],
            }
            for name, file in manifest["files"].items()
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "splits",
                "name": "splits",
                "description": "The parts of the library that methods are trained and tested on.",
                "dataType": "cr:Split",
                "key": {"@id": "splits/name"},
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": "splits/name",
                        "name": "name",
                        "description": "Name of the split.",
                        "dataType": "sc:Text",
                    }
                ],
                "data": [{"splits/name": name} for name in SPLITS],
            },
            {
                "@type": "cr:RecordSet",
                "@id": records,
                "name": records,
                "description": "A record of each sample and engine: all that was drawn, and where its arrays lie.",
                "key": [{"@id": f"{records}/id"}, {"@id": f"{records}/engine"}],
                "field": fields,
            },
        ],
    }


def api_index(manifest: dict[str, Any], catalogue: pd.DataFrame, addresses: Addresses) -> dict[str, Any]:
    """What programs can read of the site, with the version of each format."""
    library = {"name": manifest["name"], "version": manifest["version"], "schema": manifest["schema"]}
    engines = sorted(catalogue["engine"].unique())

    def resource(path: str, kind: str, what: str, **more: Any) -> dict[str, Any]:
        return {"path": path, "type": kind, "what": what, **more}

    data, plain = addresses.data, "application/json"
    return {
        "schema": _API_SCHEMA,
        "library": library,
        "samples": len(catalogue),
        "engines": engines,
        "resources": [
            resource(
                f"{SAMPLES}/{{engine}}/{{id}}.json",
                plain,
                "facts of a sample, and where its bytes lie",
                schema=RECORD_SCHEMA,
                described_by=f"{SCHEMAS}/sample.schema.json",
                example=f"{SAMPLES}/{catalogue['engine'].iloc[0]}/{catalogue['id'].iloc[0]}.json",
            ),
            resource(f"{SAMPLES}/index.json", plain, "shards and the bytes of their samples", schema=RECORD_SCHEMA),
            resource(data + CATALOGUE, _kind(CATALOGUE), "a row a sample and engine", schema=manifest["schema"]),
            resource(data + MANIFEST, plain, "files with checksums", schema=manifest["schema"]),
            resource(data + RECIPE, plain, "what was drawn", schema=manifest["schema"]),
            resource(CROISSANT, "application/ld+json", "Croissant 1.0"),
            resource("SHA256SUMS", "text/plain", "checksums for the command line"),
            resource("thumbs/index.json", plain, "packs of thumbnails (WebP) and the offset of each"),
            resource(INDEX, "application/octet-stream", "the browse page's index", schema=INDEX_SCHEMA),
            resource(CITATION_FILE, "application/yaml", "how to cite"),
            resource(
                "collection.html?samples={engine}:{numbers}",
                "text/html",
                "a collection, whose manifest `TEMImageNet.from_manifest` loads",
                schema=COLLECTION_SCHEMA,
            ),
        ],
    }


def _dataset(manifest: dict[str, Any], citation: Citation, addresses: Addresses) -> dict[str, Any]:
    """What schema.org and Croissant say alike."""
    licence = manifest["licence"]
    return {
        "@type": "Dataset",
        "name": f"TEMImageNet library {manifest['name']}",
        "description": f"{_DESCRIPTION} Library {manifest['name']}, {manifest['samples']:,} samples.",
        "url": addresses.page("index.html"),
        "license": _LICENCES.get(licence, licence),
        "version": manifest["version"],
        **_published(manifest, citation),
        "keywords": list(_KEYWORDS),
        "creator": [{"@type": "Organization", "name": name} for name in citation.makers],
    }


def _published(manifest: dict[str, Any], citation: Citation) -> dict[str, str]:
    """The date of the version that made the library: the same in every build. Of another version it is not known."""
    return {"datePublished": citation.released.isoformat()} if manifest["version"] == citation.version else {}


def _article(citation: Citation) -> dict[str, Any]:
    """The paper to cite."""
    return {
        "@type": "ScholarlyArticle",
        "name": citation.title,
        "author": [{"@type": "Person", "givenName": given, "familyName": family} for given, family in citation.authors],
        "isPartOf": {"@type": "Periodical", "name": citation.journal},
        "datePublished": str(citation.year),
        "identifier": f"https://doi.org/{citation.doi}",
        "url": f"https://doi.org/{citation.doi}",
    }


def _variables(catalogue: pd.DataFrame, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The image, its labels, and the ranges of what was drawn."""
    arrays = [
        {"@type": "PropertyValue", "name": name, "description": what} | ({"unitText": unit} if unit else {})
        for name, (what, unit) in ARRAYS.items()
        if name == "image" or name in labels
    ]
    ranges = []
    for field in (*_RANGES, "crlb_median_pm"):
        values = catalogue[field].dropna() if field in catalogue else ()
        if len(values):
            unit = unit_of(field)
            ranges.append(
                {"@type": "PropertyValue", "name": field, "description": _described(field)}
                | {"minValue": float(min(values)), "maxValue": float(max(values))}
                | ({"unitText": unit} if unit else {})
            )
    return arrays + ranges


def _described(field: str) -> str:
    """A column's sentence, with its unit."""
    unit = unit_of(field)
    return FIELDS.get(field, field) + (f" In {unit}." if unit else "")


def _told(name: str) -> str:
    """What a file of the library is."""
    if name.endswith(".h5"):
        return "Samples in HDF5, a chunk a sample and array."
    known = {CATALOGUE: "A row of each sample and engine.", RECIPE: "What was drawn."}
    return known.get(name, "Offset, size and digest of every chunk of the shard beside it.")


def _kind(name: str) -> str:
    """Media type of a file of the library."""
    return next(kind for end, kind in _TYPES.items() if name.endswith(end))


def _data_type(column: pd.Series[Any]) -> str:
    """Croissant's name for what a column holds; whole numbers with gaps are floating."""
    if pd.api.types.is_bool_dtype(column):
        return "sc:Boolean"
    if pd.api.types.is_integer_dtype(column) and not column.hasnans:
        return "sc:Integer"
    if pd.api.types.is_numeric_dtype(column) or not column.map(type).isin([str, np.str_]).any():
        return "sc:Float"
    return "sc:Text"
