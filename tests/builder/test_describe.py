"""What machines read of the portal: JSON-LD, Croissant, sitemap, JSON schema, the index of the data, the citation."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jsonschema
import mlcroissant
import numpy as np
import pytest

from builder.citation import read_citation
from builder.describe import Addresses, croissant, json_ld
from builder.fields import ARRAYS, FIELDS, unit_of
from builder.portal import build_portal
from builder.sitemap import sitemaps
from temimagenet import LABELS, TEMImageNet, __version__
from temimagenet.errors import PortalError
from temimagenet.storage import read_catalogue
from temimagenet.storage.library import read_manifest

CHECKOUT = Path(__file__).resolve().parents[2]
CITATION = read_citation(CHECKOUT / "CITATION.cff")


@pytest.fixture(scope="module")
def facts(library):
    return read_manifest(library), read_catalogue(library)


def linked_data(page: Path):
    return json.loads(page.read_text().split('<script type="application/ld+json">')[1].split("</script>")[0])


def test_the_home_page_tells_search_engines_everything(site, library):
    told = linked_data(site / "index.html")
    manifest = read_manifest(library)
    assert told["@type"] == "Dataset"
    assert 50 < len(told["description"]) < 5000  # what Google Dataset Search asks of a description
    assert told["license"] == "https://creativecommons.org/licenses/by/4.0/"
    assert told["creator"] == [{"@type": "Organization", "name": "The TEMImageNet developers"}]
    assert told["citation"]["identifier"] == "https://doi.org/10.1038/s41598-021-84499-w"
    assert [author["familyName"] for author in told["citation"]["author"]][0::4] == ["Lin", "Xin"]
    files = {file["name"]: file for file in told["distribution"]}
    for name, file in manifest["files"].items():
        assert files[name]["sha256"] == file["sha256"]
        assert files[name]["contentSize"] == f"{file['bytes']} B"
        assert (site / files[name]["contentUrl"]).stat().st_size == file["bytes"]
    catalogue = read_catalogue(library)
    measured = {variable["name"]: variable for variable in told["variableMeasured"]}
    assert {"image", *LABELS} <= set(measured)
    assert measured["psnr_dB"]["unitText"] == "dB"
    assert measured["psnr_dB"]["minValue"] == catalogue["psnr_dB"].min()
    assert measured["psnr_dB"]["maxValue"] == catalogue["psnr_dB"].max()


def test_every_field_and_array_is_described(facts):
    _, catalogue = facts
    assert set(catalogue.columns) <= set(FIELDS)
    assert set(ARRAYS) == {"image", *LABELS}
    assert [unit_of(name) for name in ("psnr_dB", "dose_e_per_A2", "energy_keV", "columns", "scan_form")] == [
        "dB", "e/Å²", "keV", "", "",
    ]  # fmt: skip
    page = (CHECKOUT / "site/docs/data-format.md").read_text()
    assert [name for name in FIELDS if f"`{name}`" not in page] == []


def test_markup_in_a_name_cannot_leave_the_script(facts):
    manifest, catalogue = facts
    odd = manifest | {"name": "</script><b>"}
    text = json_ld(odd, catalogue, CITATION, Addresses("", "data/"))
    assert "<" not in text
    assert json.loads(text)["name"] == "TEMImageNet library </script><b>"


def test_mlcroissant_reads_every_record_and_checks_its_file(site, library):
    data = mlcroissant.Dataset(site / "croissant.json")
    assert not data.metadata.issues.errors
    assert not data.metadata.issues.warnings
    records = list(data.records("samples"))
    catalogue = read_catalogue(library)
    assert [record["samples/id"].decode() for record in records] == list(catalogue["id"])
    assert np.array_equal([record["samples/psnr_dB"] for record in records], catalogue["psnr_dB"])
    assert [record["samples/shard"].decode() for record in records] == list(catalogue["shard"])
    assert [record["samples/row"] for record in records] == list(catalogue["row"])
    missing = catalogue["thickness_A"].isna()
    assert missing.any()
    assert [record["samples/thickness_A"] is None for record in records] == list(missing)
    assert [record["splits/name"] for record in data.records("splits")] == ["train", "test", "heldout"]
    assert data.metadata.cite_as == CITATION.bibtex


def test_mlcroissant_refuses_a_damaged_catalogue(library_copy, facts, tmp_path):
    manifest, catalogue = facts
    text = json.dumps(croissant(manifest, catalogue, CITATION, Addresses("", "library/")))
    (tmp_path / "croissant.json").write_text(text)
    assert len(list(mlcroissant.Dataset(tmp_path / "croissant.json").records("samples"))) == 24
    table = library_copy / "catalogue.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(mlcroissant.GenerationError):
        list(mlcroissant.Dataset(tmp_path / "croissant.json").records("samples"))


def test_samples_follow_their_schema(site, library):
    schema = json.loads((site / "schemas/sample.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    files = list(site.glob("samples/*/*.json"))
    assert len(files) == 24
    for path in files:
        check.validate(json.loads(path.read_text()))
    record = json.loads(files[0].read_text())
    for damage in ({"schema": 2}, {"engines": []}, {"arrays": {}}, {"n_columns": "many"}):
        assert not check.is_valid(record | damage), damage
    documented = (CHECKOUT / "site/docs/static-api.md").read_text()
    assert [key for key in schema["properties"] if f"`{key}`" not in documented] == []


def test_the_index_of_the_data_names_what_is_there(site):
    told = json.loads((site / "api.json").read_text())
    assert told["engines"] == ["linear"]
    documented = (CHECKOUT / "site/docs/static-api.md").read_text()
    for resource in told["resources"]:
        path = resource.get("example", resource["path"])
        if "{" not in path:
            assert (site / path).is_file(), path
        assert "described_by" not in resource or (site / resource["described_by"]).is_file()
        if not resource["path"].startswith(("samples/{", "collection", "thumbs", "browse")):
            assert f"`{resource['path']}`" in documented


def test_the_documented_reader_gets_the_image(server, library):
    page = (CHECKOUT / "site/docs/static-api.md").read_text()
    block = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "fetch_image" in block)
    names: dict = {}
    exec(compile(block, "static-api.md", "exec"), names)
    data = TEMImageNet(library, split=None, labels=[])
    sample = data[5]
    assert np.array_equal(names["fetch_image"](server, sample.id), sample.image.numpy())


def test_the_sitemap_names_every_page_and_sample(site, library):
    root = ET.parse(site / "sitemap.xml").getroot()
    assert root.tag == "{http://www.sitemaps.org/schemas/sitemap/0.9}urlset"
    addresses = [element.text for element in root.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")]
    assert len(set(addresses)) == len(addresses)
    paths = {urlsplit(address).path.lstrip("/") for address in addresses}
    assert all((site / path).is_file() for path in paths)
    assert {page.name for page in site.glob("*.html")} | {"docs/physics/index.html"} <= paths
    catalogue = read_catalogue(library)
    samples = {(q["id"][0], q["engine"][0]) for a in addresses if (q := parse_qs(urlsplit(a).query))}
    assert samples == set(zip(catalogue["id"], catalogue["engine"], strict=True))


def test_a_large_sitemap_is_parted(facts):
    _, catalogue = facts
    odd = catalogue.assign(id=[f"größe&{i}" for i in range(len(catalogue))])
    files = sitemaps("https://example.org/a/", ["index.html"], odd, most=10)
    assert list(files) == ["sitemap.xml", "sitemap-1.xml", "sitemap-2.xml", "sitemap-3.xml"]
    space = "{http://www.sitemaps.org/schemas/sitemap/0.9}loc"
    parts = [[e.text for e in ET.fromstring(text.encode()).iter(space)] for text in files.values()]
    assert parts[0] == [f"https://example.org/a/sitemap-{n}.xml" for n in (1, 2, 3)]
    assert [len(part) for part in parts[1:]] == [10, 10, 5]
    assert parse_qs(urlsplit(parts[1][1]).query)["id"] == ["größe&0"]


def test_a_site_that_knows_its_address_tells_whole_ones(library, tmp_path):
    build_portal(library, tmp_path / "site", docs=False, site_url="https://example.org/v1")
    told = linked_data(tmp_path / "site/index.html")
    assert told["url"] == "https://example.org/v1/index.html"
    assert told["distribution"][0]["contentUrl"] == "https://example.org/v1/data/catalogue.parquet"
    described = json.loads((tmp_path / "site/croissant.json").read_text())
    assert described["distribution"][0]["contentUrl"] == "https://example.org/v1/data/catalogue.parquet"
    assert "https://example.org/v1/sample.html?id=" in (tmp_path / "site/sitemap.xml").read_text()
    assert (
        '<link rel="canonical" href="https://example.org/v1/browse.html">'
        in (tmp_path / "site/browse.html").read_text()
    )


@pytest.mark.browser
def test_what_is_not_found_leads_back_from_any_depth(site, library, tmp_path, serving, browser):
    (tmp_path / "site").mkdir()
    with serving(tmp_path / "site") as address:
        build_portal(library, tmp_path / "site", docs=False, site_url=address)
        assert "404.html" not in (tmp_path / "site/sitemap.xml").read_text()
        page = browser.new_page()
        # As GitHub Pages and others do, at an address that is none.
        text = (tmp_path / "site/404.html").read_text()
        page.route("**/no/such/page", lambda route: route.fulfill(status=404, content_type="text/html", body=text))
        page.goto(f"{address}no/such/page")
        assert page.locator("header.top").evaluate("header => getComputedStyle(header).display") == "flex"
        page.get_by_role("link", name="Browse the library").click()
        page.wait_for_url(f"{address}browse.html")
        page.close()
    assert not (site / "404.html").exists()  # a site that does not know its address has none


def test_the_citation_is_that_of_the_file_everywhere(site, library):
    assert (site / "CITATION.cff").read_bytes() == (CHECKOUT / "CITATION.cff").read_bytes()
    assert CITATION.bibtex in (CHECKOUT / "site/docs/cite.md").read_text()
    assert "@article{lin2021temimagenet," in (site / "downloads.html").read_text()
    for page in site.glob("*.html"):
        assert 'href="CITATION.cff"' in page.read_text(), page.name


def test_the_library_is_dated_by_its_version(site, facts):
    manifest, catalogue = facts
    assert CITATION.version == manifest["version"] == __version__
    assert linked_data(site / "index.html")["datePublished"] == CITATION.released.isoformat()
    older = json.loads(json_ld(manifest | {"version": "0.0.1"}, catalogue, CITATION, Addresses("", "data/")))
    assert "datePublished" not in older
    newest = re.search(r"^## (\S+) \((.*)\)$", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == CITATION.version
    assert newest[2] in ("unreleased", CITATION.released.isoformat())


def test_a_damaged_citation_is_named(tmp_path):
    path = tmp_path / "CITATION.cff"
    whole = (CHECKOUT / "CITATION.cff").read_text()
    odd = whole.replace("date-released: 20", "date-released: the year 20")
    for text in ("cff-version: 1.2.0\n", "[", "authors: []\npreferred-citation: 3\n", odd):
        path.write_text(text)
        with pytest.raises(PortalError, match=r"CITATION\.cff"):
            read_citation(path)
