"""The report holds all of the verdict, fits in a page, needs nothing else, and compares like with like."""

import base64
import io
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patterns import PatternGenerator, judged_patterns, pattern_side, verdict_on
from PIL import Image

from troika.datasets.contract import Images
from troika.quality.axes import Point, figure_axis
from troika.quality.judge import Judged
from troika.quality.real import RealSide
from troika.quality.report import MAX_BYTES, write_report
from troika.quality.report_samples import Plan, gallery, shown_rows
from troika.quality.self_test import SelfTestRow
from troika.quality.verdict import Verdict, title

SPEC = {"family": "gan", "framework": "pytorch", "preset": "r3gan"}
LINEAGE = {
    "code_commit": "1234abcd",
    "image": "registry.example/train@sha256:00",
    "train": {**SPEC, "steps": 6000, "seed": 5, "batch_size": 128},
}
SELF_TEST = [
    SelfTestRow(name="noise", decision="reject", failed=["recall"], expected=["recall"], reason="recall is bad"),
    SelfTestRow(name="real ones", decision="promote", failed=[], expected=[], reason="", control=True),
]
FREE_ROWS = ["1\N{EN DASH}5", "6\N{EN DASH}10"]
VOID = {"meta", "img", "br", "circle", "line", "rect", "path"}
ALL_OF_THEM = Plan(1, lossless=True)


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        # What only a screen reader says does not count.
        if self.open[-1:] not in (["style"], ["title"]):
            self.text += data

    def has(self, words: str) -> bool:
        return re.sub(r"\s+", " ", words) in re.sub(r"\s+", " ", self.text)


def page_of(path: Path, real: RealSide, judged: Judged, **more: Any) -> tuple[Page, str, Verdict]:
    verdict = verdict_on(judged, self_test=more.pop("self_test", SELF_TEST), released=more.pop("released", False))
    write_report(path, verdict=verdict, judged=judged, real=real, spec=SPEC, lineage=LINEAGE, **more)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    return page, text, verdict


@pytest.fixture(scope="module")
def real() -> RealSide:
    return pattern_side()


@pytest.fixture(scope="module")
def judged(real: RealSide) -> Judged:
    """A challenger that is worse than its champion."""
    return judged_patterns(real, PatternGenerator(real, noise=90), PatternGenerator(real))


def in_page(number: float) -> str:
    return f"{number:.4g}".replace("-", "\N{MINUS SIGN}")


def pictures(page: Page) -> list[str]:
    return [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]


def image_in(uri: str) -> Images:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def seeds_in(uris: list[str]) -> list[int]:
    """What PatternGenerator has written into its images."""
    images = [image_in(uri).reshape(-1) for uri in uris]
    return [int(image[0]) * 256 + int(image[1]) for image in images]


def test_the_verdict_and_all_that_it_rests_on_is_in_the_page(
    tmp_path: Path, real: RealSide, judged: Judged
) -> None:
    way = np.zeros((2, 8, 6, 6, 1), np.uint8)
    page, text, verdict = page_of(
        tmp_path / "page.html", real, judged, interpolation=way, rollback="troika rollback --to blue"
    )
    body = text.partition("<body>")[2]
    first = Page(body.partition("</h1>")[0]).text
    assert " ".join(first.split()) == f"✗ {verdict.headline}"
    assert len(verdict.measures) > 15
    for measure in verdict.measures:
        assert page.has(title(measure.name))
        for number in (measure.value, measure.low, measure.high):
            assert number is None or page.has(in_page(number)), measure
        if measure.limit:
            assert page.has(measure.limit.replace(">=", "≥").replace("<=", "≤"))
    for measure in verdict.champion_measures:
        assert measure.value is None or f"champion {in_page(measure.value)}" in text, measure
    assert verdict.challenge is not None
    assert page.has(verdict.challenge.reason)
    for digest in (verdict.bundle_digest, verdict.dataset_content_hash, verdict.evaluator_digest):
        assert page.has(digest)
    assert page.has(f"a{'a' * 63}")
    assert page.has(verdict.reference_sha256)
    assert page.has(verdict.code_commit)
    assert page.has("1234abcd")
    assert page.has("seed 5")
    assert page.has("troika rollback --to blue")
    assert page.has("noise")
    assert page.has("control: should pass")
    assert "from seed 2 to seed 3" in text
    assert not page.has("takes no label")


@pytest.mark.parametrize(("conditional", "who"), [((True, False), "champion"), ((False, True), "challenger")])
def test_the_page_says_who_takes_no_label(
    tmp_path: Path, real: RealSide, conditional: tuple[bool, bool], who: str
) -> None:
    ours, theirs = (PatternGenerator(real, conditional=one) for one in conditional)
    page, _, _ = page_of(tmp_path / "page.html", real, judged_patterns(real, ours, theirs))
    assert page.has(f"The {who} takes no label.")


def test_a_page_needs_no_other_file_and_no_script(tmp_path: Path, real: RealSide, judged: Judged) -> None:
    page, text, _ = page_of(tmp_path / "page.html", real, judged)
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base"} == set()
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
    assert not re.search(r"@import|url\(|@font-face", text)


def test_pictures_and_tables_say_what_they_are(tmp_path: Path, real: RealSide, judged: Judged) -> None:
    page, text, _ = page_of(tmp_path / "page.html", real, judged)
    assert all("alt" in attributes for tag, attributes in page.tags if tag == "img")
    assert text.count('class="axis"') == text.count("<title>") - 1
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags


@pytest.mark.parametrize("conditional", [(True, True), (False, False), (False, True), (True, False)])
def test_challenger_and_champion_show_the_same_latents(conditional: tuple[bool, bool]) -> None:
    real = pattern_side()
    ours, theirs = (PatternGenerator(real, conditional=one, noise=60 + one) for one in conditional)
    judged = judged_patterns(real, ours, theirs)
    assert judged.champion is not None
    strips = gallery(judged.tally, judged.champion, real, ALL_OF_THEM, 5)
    assert [strip.name for strip in strips][:2] == (["a", "b"] if any(conditional) else FREE_ROWS)
    shown = [(seeds_in(strip.ours), seeds_in(strip.theirs)) for strip in strips]
    assert all(mine == other for mine, other in shown)
    everything = [seed for mine, _ in shown for seed in mine]
    assert len(set(everything)) == len(everything) == 5 * len(strips)
    if any(conditional):
        asked = dict(zip(seeds_in(all_tiles(judged)), judged.tally.kept.asked.tolist(), strict=True))
        for (label, _), (mine, _) in zip(shown_rows(judged.tally, judged.champion, 5), shown, strict=True):
            assert {asked[seed] for seed in mine} == {label}


def all_tiles(judged: Judged) -> list[str]:
    return ALL_OF_THEM.tiles(judged.tally.kept.images)


def test_class_names_are_text(tmp_path: Path) -> None:
    names = ("<b>bold</b>", '"><script>alert(1)</script>', "c & d")
    real = pattern_side(classes=names)
    _, text, _ = page_of(tmp_path / "page.html", real, judged_patterns(real, PatternGenerator(real, noise=120)))
    assert "<b>bold" not in text
    assert "<script" not in text
    assert escape(names[0]) in text
    assert "c &amp; d" in text


def test_a_large_data_set_still_fits(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(100))
    real = pattern_side((64, 64, 3), names)
    judged = judged_patterns(real, PatternGenerator(real, noise=30), PatternGenerator(real))
    way = np.random.default_rng(0).integers(0, 256, (10, 8, 64, 64, 3), dtype=np.uint8)
    page, text, _ = page_of(tmp_path / "page.html", real, judged, interpolation=way)
    assert MAX_BYTES / 4 < len(text.encode()) <= MAX_BYTES
    assert all(page.has(name) for name in names)
    for label in (
        ": samples of the judged model",
        "champion&#39;s samples",
        "held-out real images",
        "from seed 0",
    ):
        assert label in text
    assert "nearest training image of sample 1" in text


def test_small_images_are_shown_as_they_are(tmp_path: Path, real: RealSide, judged: Judged) -> None:
    page, text, _ = page_of(tmp_path / "page.html", real, judged)
    assert all(uri.startswith("data:image/png") for uri in pictures(page))
    kept = {image.tobytes() for image in judged.tally.kept.images[..., 0]}
    shown = [image_in(uri).tobytes() for uri in pictures(page)]
    assert sum(image in kept for image in shown) > 3 * 8
    assert "image-rendering: pixelated" in text


class Broken:
    """Gives NaN from some batch on."""

    conditional = True

    def __init__(self, real: RealSide, after: int) -> None:
        self._sound, self._left = PatternGenerator(real), after

    def draw(self, seeds: np.ndarray, labels: np.ndarray) -> Images:
        self._left -= 1
        images = self._sound.draw(seeds, labels)
        return images if self._left >= 0 else np.full(images.shape, np.nan)  # type: ignore[return-value]


@pytest.mark.parametrize("after", [0, 1])
def test_without_usable_samples_the_page_says_why(tmp_path: Path, real: RealSide, after: int) -> None:
    judged = judged_patterns(real, Broken(real, after), PatternGenerator(real))
    page, text, verdict = page_of(tmp_path / "page.html", real, judged, released=True)
    assert verdict.decision == "reject"
    assert verdict.measures == []
    assert verdict.samples == 100 * after
    assert page.has(verdict.reasons[0])
    assert "NaN" in verdict.headline
    assert ("<h2>Samples" in text) == bool(after)
    assert "<h2>Figures" not in text
    assert "<h2>Lineage" in text


@pytest.mark.parametrize(
    ("classes", "conditional", "absent"),
    [
        (("only",), True, "<h2>Class by class"),
        (("a", "b", "c"), False, "mistaken for"),
        (("a", "b", "c"), True, "<h2>Self-test"),
    ],
)
def test_what_does_not_apply_is_left_out(
    tmp_path: Path, classes: tuple[str, ...], conditional: bool, absent: str
) -> None:
    real = pattern_side(classes=classes)
    judged = judged_patterns(real, PatternGenerator(real, conditional=conditional))
    page, text, _ = page_of(tmp_path / "page.html", real, judged, self_test=[])
    assert absent not in text
    assert "Against the champion" not in text
    assert not any("theirs" in (attributes.get("class") or "") for _, attributes in page.tags)
    assert "<h2>Samples" in text
    assert page.has("nothing has been released")


def test_confusions_of_many_classes_are_a_picture_and_a_list(tmp_path: Path) -> None:
    real = pattern_side(classes=tuple(f"class {number}" for number in range(30)))
    judged = judged_patterns(real, PatternGenerator(real, noise=250))
    page, text, _ = page_of(tmp_path / "page.html", real, judged)
    (matrix,) = [
        attributes for tag, attributes in page.tags if (attributes.get("alt") or "").startswith("Confusion")
    ]
    picture = image_in(matrix["src"] or "").astype(int).sum(axis=2)
    wrong = judged.tally.confusion - np.diag(judged.tally.confusion.diagonal())
    assert picture.shape == (30, 30)
    assert ((picture < 765) == (judged.tally.confusion > 0)).all()
    asked, seen = np.unravel_index(wrong.argmax(), wrong.shape)
    row = f'<td>class {asked}</td><td>class {seen}</td><td class="number">{wrong.max()}</td>'
    assert row in text
    assert page.has("The other 10 classes")


def test_copies_are_the_most_suspicious(real: RealSide) -> None:
    class Copying(PatternGenerator):
        def draw(self, seeds: np.ndarray, labels: np.ndarray) -> Images:
            images = super().draw(seeds, labels)
            images[17] = real.train.images[42]
            return images

    found = judged_patterns(real, Copying(real)).tally.suspicious
    assert (found.samples[0] == real.train.images[42]).all()
    assert (found.neighbours[0] == found.samples[0]).all()
    assert found.nearness[0] == 0
    assert found.nearness[-1] > 0
    train = real.train.images.reshape(300, -1).astype(float)
    for sample, neighbour, nearness in zip(found.samples, found.neighbours, found.nearness, strict=True):
        to_training = np.linalg.norm(train - sample.reshape(-1), axis=1)
        to_neighbour = np.linalg.norm(train - neighbour.reshape(-1), axis=1)
        assert to_neighbour[to_training.argmin()] == 0
        assert nearness == pytest.approx(to_training.min() / np.sort(to_neighbour)[1])
    assert (np.diff(found.nearness) >= 0).all()


def marks(svg: str, pattern: str) -> list[float]:
    return [float(value) for value in re.findall(pattern, svg)]


def test_an_axis_puts_marks_where_the_figures_are() -> None:
    svg = figure_axis(
        "label <x>",
        Point(0.5, 0.4, 0.7),
        champion=Point(0.3),
        floor=0.9,
        at_least=0.2,
        domain=(0.0, 1.0),
        ticks=True,
    )
    place = lambda number: 10 + 280 * number  # noqa: E731 - as the axis is 300 wide with edges of 10
    assert marks(svg, r'circle class="ours" cx="([\d.]+)"') == [place(0.5)]
    assert re.search(r'line class="ours" x1="122.0" x2="206.0"', svg)
    assert marks(svg, r'rect class="theirs" x="([\d.]+)"') == [place(0.3) - 3.5]
    assert marks(svg, r'path class="floor" d="M([\d.]+)') == [place(0.9)]
    assert marks(svg, r'line class="limit" x1="([\d.]+)"') == [place(0.2)]
    assert re.search(r'class="beyond" x="0.0" y="0" width="66.0"', svg)
    assert "label &lt;x&gt;" in svg
    assert marks(svg, r"<text[^>]*>([\d.]+)</text>") == [0, 0.2, 0.4, 0.6, 0.8, 1]


@pytest.mark.parametrize("value", [-1e-9, 0.0, 1.0, 3.7e7, -250.0])
def test_an_axis_always_has_numbers_on_it(value: float) -> None:
    svg = figure_axis("figure", Point(value, value, value))
    assert 1 <= len(re.findall(r"<text", svg)) <= 6


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_there_is_no_axis_of_what_is_not_finite(value: float) -> None:
    assert figure_axis("figure", Point(value)) == "" == figure_axis("figure", Point(1.0, 0.5, value))
    assert figure_axis("ratio", Point(0.0), logarithmic=True) == ""
