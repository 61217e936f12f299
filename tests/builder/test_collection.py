"""Collections and downloads, as a visitor takes them home and loads them in Python."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import torch

from temimagenet import TEMImageNet

SHOWN = "document.querySelectorAll('#tiles li').length === {}"


def manifest_of(page, path):
    """The manifest that the page hands out."""
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download the manifest (JSON)").click()
    caught.value.save_as(path)
    return path


@pytest.mark.browser
def test_samples_chosen_by_hand_load_in_python(visit, server, library, tmp_path):
    page = visit(server, permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"{server}collection.html")
    page.wait_for_function("document.querySelector('#source')?.textContent.includes('Nothing is chosen yet')")
    page.get_by_role("link", name="browse the library").click()
    page.wait_for_selector(".tile input")
    for number in (3, 1):
        page.locator(".tile input").nth(number).check()
    page.goto(f"{server}sample.html?id=tiny-000007")
    page.get_by_label("in my collection").check()
    page.get_by_role("link", name="Collection", exact=True).click()
    page.wait_for_function(SHOWN.format(3))
    chosen = ["tiny-000003", "tiny-000001", "tiny-000007"]
    assert page.locator("#tiles a").evaluate_all("links => links.map((link) => new URL(link.href).search)") == [
        f"?id={name}&engine=linear" for name in chosen
    ]
    page.wait_for_function(
        "document.querySelector('#tiles canvas')?.getContext('2d').getImageData(0, 0, 96, 96).data"
        ".some((value, i) => i % 4 < 3 && value > 60)"
    )
    path = manifest_of(page, tmp_path / "tiny-collection.json")
    data = TEMImageNet.from_manifest(path, root=library, verify=True)
    assert [sample.id for sample in data] == chosen
    everything = TEMImageNet(library, split=None)
    assert torch.equal(data[0].image, everything[3].image)
    record = json.loads(path.read_text())["samples"][0]
    assert record | dict(everything.catalogue.iloc[3][["id", "engine", "shard", "row", "sha256"]]) == record

    page.get_by_role("button", name="Copy link").click()
    page.wait_for_function("document.querySelector('#link')?.textContent === 'Copied'")
    address = page.evaluate("navigator.clipboard.readText()")
    assert address == f"{server}collection.html?samples=linear:3,1,7"
    page.get_by_role("button", name="Remove tiny-000001 linear").click()
    page.wait_for_function(SHOWN.format(2))
    page.get_by_role("button", name="Empty it").click()
    page.wait_for_function("document.querySelector('#full')?.hidden")
    page.goto(address)
    page.wait_for_function(SHOWN.format(3))
    page.get_by_role("button", name="Make this my selection").click()
    page.goto(f"{server}collection.html")
    page.wait_for_function(SHOWN.format(3))


@pytest.mark.browser
def test_a_search_becomes_a_collection(page, server, library, tmp_path, monkeypatch):
    page.goto(f"{server}browse.html?psnr_dB=15..&material=Pt|MoS2")
    page.get_by_role("link", name="Collect all of these").click()
    wanted = TEMImageNet(library, split=None, where="psnr_dB >= 15 and material in ('Pt', 'MoS2')").catalogue
    page.wait_for_function(SHOWN.format(len(wanted)))
    assert "material Pt or MoS2" in page.locator("#source").inner_text()
    assert "psnr_dB from 15" in page.locator("#source").inner_text()
    manifest_of(page, tmp_path / "tiny-collection.json")
    (tmp_path / "library").symlink_to(library)
    monkeypatch.chdir(tmp_path)
    names: dict[str, TEMImageNet] = {}
    exec(page.locator("#snippet").inner_text(), names)
    assert list(names["data"].catalogue["id"]) == list(wanted["id"])
    assert set(names["data"][0].labels) >= {"position", "gaussianMask"}
    sizes = json.loads((tmp_path / "tiny-collection.json").read_text())["shards"]
    assert set(sizes) == set(wanted["shard"])


@pytest.mark.browser
def test_what_a_collection_cannot_have_is_told(page, server):
    page.goto(f"{server}collection.html?samples=linear:2,99,x,5-3;multislice:3")
    page.wait_for_function(SHOWN.format(1))
    text = page.locator("#notice").inner_text()
    assert "“x” is no number of a sample" in text
    assert "“5-3” is no number of a sample" in text
    assert "does not have tiny-000099 linear, tiny-000003 multislice" in text
    page.goto(f"{server}collection.html?material=Pt|Xx&colour=red&psnr_dB=many&toString=1")
    page.wait_for_selector("#tiles li")
    text = page.locator("#notice").inner_text()
    assert "asks for material “Xx”, “colour”, psnr_dB “many” (a range is written 1..5), “toString”," in text
    assert page.locator("#source b").inner_text() == "material Pt"
    page.goto(f"{server}collection.html?psnr_dB=many")
    page.get_by_text("The whole library.").wait_for()
    page.goto(f"{server}collection.html?samples=nonsense")
    page.get_by_text("“nonsense” lists no samples").wait_for()
    page.get_by_text("This address lists no sample of the library.").wait_for()
    page.goto(f"{server}collection.html?q=pt&psnr_dB=99..")
    page.get_by_text("finds no sample").wait_for()


def test_checksums_for_the_command_line_are_those_of_the_files(site, library, library_copy):
    shutil.copy(site / "SHA256SUMS", library_copy)
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=library_copy, check=False).returncode == 0
    with (library_copy / "shards/linear-00001.h5").open("ab") as file:
        file.write(b"more")
    done = subprocess.run(check, cwd=library_copy, check=False, capture_output=True, text=True)
    assert "linear-00001.h5: FAILED" in done.stdout


def test_downloads_tell_sizes_checksums_and_versions(site, library):
    text = (site / "downloads.html").read_text(encoding="utf-8")
    manifest = json.loads((library / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        assert f'href="data/{name}"' in text
        assert facts["sha256"] in text
    assert f"<summary>What is new in {manifest['version']}" in text
