"""Where a license is read, and what it becomes in a merge."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures import small
from memcard.cli import license as cli
from memcard.cli.main import main
from memcard.core.license import USES
from memcard.errors import NotFoundError, UnsafeError, UnsupportedError
from memcard.jobs.license import LicenseReport, license_of, license_of_merge
from memcard.jobs.lora import lora_bake
from memcard.jobs.merge import merge
from memcard.recipes.nodes import Apply, Source
from memcard.recipes.text import to_json

RAIL, NC = "CreativeML Open RAIL-M", "CC BY-NC 4.0"


def make(path: Path, license_: str | None = None, seed: int = 1, **metadata: str) -> Path:
    said = {"modelspec.license": license_} if license_ else {}
    return small.save(path, small.weights(seed, size=8), said | metadata)


def made(tmp_path: Path, *licenses: str | None, out: str = "m.safetensors") -> Path:
    names = "abcdef"[: len(licenses)]
    refs = [make(tmp_path / f"{n}.safetensors", x, i) for i, (n, x) in enumerate(zip(names, licenses, strict=True))]  # fmt: skip
    return merge("weighted_average", refs, out=tmp_path / out).out


def told(report: LicenseReport) -> dict[str, str]:
    return {parent.name: parent.license.id for parent in report.verdict.parents}


# ------------------------------------------------------------------------------------- one file


def test_the_header_says_it(tmp_path: Path) -> None:
    report = license_of(make(tmp_path / "a.safetensors", "Apache-2.0"))

    assert report.verdict.license == "apache-2.0"
    assert "ModelSpec" in report.verdict.parents[0].origin


def test_nothing_said_is_unknown(tmp_path: Path) -> None:
    report = license_of(make(tmp_path / "a.safetensors"))

    assert {report.verdict.answer(use) for use in USES} == {"unknown"}
    assert report.verdict.parents[0].origin == "nothing is stated in it or beside it"


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("license: other\nlicense_name: fair-ai-public-license-1.0-sd", "fair-ai-public-1.0-sd"),
        (
            "license: other\nlicense_link: https://freedevproject.org/faipl-1.0-sd/",
            "fair-ai-public-1.0-sd",
        ),
        ("license: other", "unknown"),
    ],
)
def test_the_readme_of_a_repository_says_it(tmp_path: Path, front: str, expected: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# A model\n", "utf-8")

    assert license_of(make(tmp_path / "a.safetensors")).verdict.license == expected


def test_flags_of_civitai_hold_beside_the_license_of_the_base(tmp_path: Path) -> None:
    path = make(tmp_path / "a.safetensors")
    flags = {"allowNoCredit": False, "allowCommercialUse": ["RentCivit", "Rent"], "allowDerivatives": True, "allowDifferentLicense": True}  # fmt: skip
    info = {"modelId": 1, "baseModel": "SDXL 1.0", "model": {"name": "x", **flags}}
    (tmp_path / "a.civitai.info").write_text(json.dumps(info), "utf-8")

    report = license_of(path)

    assert told(report) == {
        "a.safetensors": "civitai:RentCivit+Rent,credit,merges,different",
        "SDXL 1.0, base of a.safetensors": "openrail++",
    }
    assert [report.verdict.answer(use) for use in ("commercial", "merge", "host")] == [
        *("no", "if", "if")
    ]


def test_what_civitai_does_not_say_is_unknown(tmp_path: Path) -> None:
    path = make(tmp_path / "a.safetensors")
    info = {"modelId": 1, "baseModel": "SDXL 1.0", "model": {"name": "x"}}
    (tmp_path / "a.civitai.info").write_text(json.dumps(info), "utf-8")

    assert license_of(path).verdict.answer("commercial") == "unknown"


def test_the_base_of_a_lora_has_a_say(tmp_path: Path) -> None:
    known = make(tmp_path / "a.safetensors", "MIT", ss_sd_model_name="sd_xl_base_1.0.safetensors")
    foreign = make(tmp_path / "b.safetensors", "MIT", ss_sd_model_name="secret.safetensors")
    local = make(tmp_path / "c.safetensors", "MIT", ss_sd_model_name="a.safetensors")

    assert license_of(known).verdict.license == "mit AND openrail++"
    assert license_of(foreign).verdict.license == "unknown"
    assert license_of(local).verdict.license == "mit AND openrail++"


def test_the_family_of_a_lora_is_no_parent(tmp_path: Path) -> None:
    path = make(tmp_path / "a.safetensors", "MIT", ss_base_model_version="sdxl_base_v1-0")
    (tmp_path / "a.json").write_text('{"sd version": "SDXL", "notes": "x"}', "utf-8")

    assert told(license_of(path)) == {"a.safetensors": "mit"}


def test_two_places_that_contradict_each_other_both_count(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n", "utf-8")

    report = license_of(make(tmp_path / "a.safetensors", "MIT"))

    assert report.verdict.license == "cc-by-nc-4.0 AND mit"
    assert report.verdict.answer("commercial") == "no"


def test_a_broken_sidecar_is_a_note(tmp_path: Path) -> None:
    path = make(tmp_path / "a.safetensors", "MIT")
    (tmp_path / "a.civitai.info").write_text("{", "utf-8")

    report = license_of(path)

    assert report.verdict.license == "mit"
    assert "civitai_info could not be read" in report.notes[0]


def test_the_data_a_model_was_trained_on_is_a_parent() -> None:
    report = license_of("starter/neon")

    assert {p.name for p in report.verdict.parents if p.role == "data"} >= {"Google Noto Emoji"}
    assert report.verdict.license == "apache-2.0 AND mit"


def test_a_folder_of_diffusers_is_asked_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "X", "unet": ["diffusers", "U"]}')
    (folder / "unet" / "config.json").write_text('{"_class_name": "U"}')
    small.save(folder / "unet" / "diffusion_pytorch_model.safetensors", small.weights(1, size=8))
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n", "utf-8")

    assert license_of(folder).verdict.license == "openrail++"


def test_a_file_that_asks_to_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")

    with pytest.raises(UnsafeError):
        license_of(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello", "utf-8")

    with pytest.raises(UnsupportedError):
        license_of(tmp_path / "a.txt")
    with pytest.raises(NotFoundError):
        license_of(tmp_path / "gone.safetensors")


# ----------------------------------------------------------------------------------- of several


def test_a_merge_has_the_strictest_answers_and_all_duties(tmp_path: Path) -> None:
    report = license_of(made(tmp_path, RAIL, NC))

    assert told(report) == {
        "a.safetensors": "creativeml-openrail-m",
        "b.safetensors": "cc-by-nc-4.0",
    }
    assert report.verdict.answer("commercial") == "no"
    assert {o.duty.kind for o in report.verdict.duties} >= {"use restrictions", "non-commercial"}


def test_a_merge_of_merges_is_followed_to_the_end(tmp_path: Path) -> None:
    first = made(tmp_path, RAIL, NC)
    third = make(tmp_path / "z.safetensors", "MIT", 9)

    out = merge("weighted_average", [first, third], out=tmp_path / "mm.safetensors").out

    assert set(told(license_of(out))) == {"a.safetensors", "b.safetensors", "z.safetensors"}


def test_parents_that_are_gone_count_as_said_when_it_was_made(tmp_path: Path) -> None:
    out = made(tmp_path, RAIL, None)
    for name in "ab":
        (tmp_path / f"{name}.safetensors").unlink()

    report = license_of(out)

    assert told(report) == {
        "a.safetensors": "creativeml-openrail-m",
        "b.safetensors": "unknown",
    }
    assert report.verdict.parents[0].origin == "said in m.safetensors when it was made"
    assert report.verdict.answer("share") == "unknown"


def test_a_file_with_the_name_of_a_parent_and_other_contents_is_not_asked(tmp_path: Path) -> None:
    out = made(tmp_path, RAIL, NC)
    make(tmp_path / "b.safetensors", "MIT", 77)

    report = license_of(out)

    assert told(report)["b.safetensors"] == "cc-by-nc-4.0"
    assert "other contents" in report.notes[0]


def test_a_baked_lora_is_a_parent(tmp_path: Path) -> None:
    out = lora_bake("starter", [("starter/lora_pixel", 0.5)], out=tmp_path / "o.safetensors").out

    report = license_of(out)

    assert "unknown" not in told(report).values()
    assert len([p for p in report.verdict.parents if p.role == "model"]) >= 2


def test_merges_of_other_programs_name_their_parents(tmp_path: Path) -> None:
    make(tmp_path / "x.safetensors", NC)
    models = json.dumps({"0" * 10: {"name": "x.safetensors"}, "f" * 64: {"name": "gone.ckpt"}})
    a1111 = make(tmp_path / "m.safetensors", sd_merge_models=models, sd_merge_recipe="{}")
    spec = make(tmp_path / "n.safetensors", **{"modelspec.merged_from": "x, sd_xl_base_1.0"})

    assert told(license_of(a1111)) == {"x.safetensors": "cc-by-nc-4.0", "gone.ckpt": "unknown"}
    assert set(told(license_of(spec)).values()) == {"cc-by-nc-4.0", "openrail++"}


def test_an_uploader_who_promises_too_much_is_told(tmp_path: Path) -> None:
    make(tmp_path / "x.safetensors", NC)
    path = make(tmp_path / "m.safetensors", "MIT", **{"modelspec.merged_from": "x"})

    verdict = license_of(path).verdict

    assert [conflict.kind for conflict in verdict.conflicts] == ["promise"]
    assert verdict.answer("commercial") == "no"


@pytest.mark.parametrize(
    "ref",
    ["m.safetensors", "../m.safetensors", "/etc/passwd", "..", "", "x" * 5000, "a\0b", "é" * 150],
)
def test_a_file_that_names_itself_or_leads_elsewhere_ends_as_unknown(
    tmp_path: Path, ref: str
) -> None:
    recipe = to_json(Apply("identity", (Source(ref or "?"),)))
    path = make(tmp_path / "m.safetensors", **{"memcard.recipe": recipe})

    assert license_of(path).verdict.license == "unknown"


def test_many_merges_of_each_other_are_asked_once_each(tmp_path: Path) -> None:
    make(tmp_path / "0a.safetensors", "MIT")
    make(tmp_path / "0b.safetensors", NC)
    for i in range(1, 15):
        sources = tuple(Source(f"{i - 1}{x}.safetensors") for x in "ab")
        for x in "ab":
            recipe = to_json(Apply("weighted_average", sources))
            make(tmp_path / f"{i}{x}.safetensors", **{"memcard.recipe": recipe})

    report = license_of(tmp_path / "14a.safetensors")

    assert set(told(report).values()) == {"mit", "cc-by-nc-4.0"}


def test_a_recipe_that_cannot_be_read_is_an_unknown_parent(tmp_path: Path) -> None:
    path = make(tmp_path / "m.safetensors", "MIT", **{"memcard.recipe": "{"})

    assert license_of(path).verdict.license == "unknown"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["mit", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["license", "made_from", "name", "attribution", "sha256", "x"]), inner)
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    found=st.dictionaries(
        st.sampled_from(
            ["memcard.card", "memcard.recipe", "sd_merge_models", "modelspec.merged_from", "ss_sd_model_name", "memcard.delta.base_sha256"]
        ),
        JSON.map(json.dumps) | st.text(max_size=20),
    )
)  # fmt: skip
def test_whatever_a_header_holds_there_is_an_answer(tmp_path: Path, found: dict[str, str]) -> None:
    path = make(tmp_path / "m.safetensors", None, **found)

    report = license_of(path)

    assert report.verdict.parents
    assert json.loads(json.dumps(report.to_dict()))["license"]


# ------------------------------------------------------------------------- what the user knows


def test_what_the_user_knows_replaces_what_is_read(tmp_path: Path) -> None:
    out = made(tmp_path, None, NC)

    report = license_of(out, given={"a": "openrail++", "b.safetensors": "mit"})

    assert report.verdict.license == "mit AND openrail++"
    assert license_of(out, given={"m": "cc0-1.0"}).verdict.license == "cc0-1.0"


def test_a_license_for_nothing_and_a_license_that_is_none_are_refused(tmp_path: Path) -> None:
    out = made(tmp_path, RAIL, NC)

    with pytest.raises(NotFoundError, match=r"'?zzz.*a\.safetensors, b\.safetensors"):
        license_of(out, given={"zzz": "mit"})
    with pytest.raises(NotFoundError, match="no license 'free'"):
        license_of(out, given={"a": "free"})


def test_a_merge_that_is_not_made_yet_has_a_license(tmp_path: Path) -> None:
    refs = [make(tmp_path / "a.safetensors", "CC-BY-SA-4.0"), make(tmp_path / "b.safetensors", NC)]

    verdict = license_of_merge(refs).verdict

    assert verdict.license == "conflicting"
    assert verdict.conflicts[0].parents == ("a.safetensors", "b.safetensors")


# ------------------------------------------------------------------------------------- command


@pytest.mark.parametrize(
    ("license_", "use", "code"),
    [
        ("MIT", "commercial", 0),
        (RAIL, "commercial", 0),
        (NC, "commercial", 1),
        (None, "share", 1),
        (NC, None, 0),
    ],
)
def test_the_exit_code_answers_the_question(
    tmp_path: Path, license_: str | None, use: str | None, code: int
) -> None:
    path = make(tmp_path / "a.safetensors", license_)

    assert main(["license", str(path), *(["--for", use] if use else [])]) == code


def test_several_files_are_a_yes_only_together(tmp_path: Path) -> None:
    refs = [str(make(tmp_path / "a.safetensors", "MIT")), str(make(tmp_path / "b.safetensors", NC))]

    assert main(["license", refs[0], "--for", "host"]) == 0
    assert main(["license", *refs, "--for", "host"]) == 1
    assert main(["license", *refs, "--together", "--for", "share"]) == 0


def test_the_answer_is_a_table_with_who_decides_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["license", str(made(tmp_path, RAIL, NC))]) == 0

    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    row = next(line for line in lines if line.startswith("sell pictures made with it?"))
    assert row.split("  ", 1)[1].split() == ["no", "b.safetensors", "(cc-by-nc-4.0)"]
    assert "[cc-by-nc-4.0, 1 (NonCommercial), 2(a)(1): b.safetensors]" in shown.out
    assert "https://creativecommons.org/licenses/by-nc/4.0/legalcode.en" in shown.out
    assert "Not legal advice" in shown.err


def test_one_question_shows_what_every_parent_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["license", str(made(tmp_path, RAIL, NC)), "--for", "commercial"])

    out = capsys.readouterr().out
    assert "may I sell pictures made with it? no\n" in out
    assert out.index("b.safetensors]") < out.index("a.safetensors]")


def test_json_has_the_same_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["license", str(made(tmp_path, RAIL, NC)), "--for", "host", "--json"])

    facts = json.loads(capsys.readouterr().out)
    assert facts["license"] == "cc-by-nc-4.0 AND creativeml-openrail-m"
    assert list(facts["answers"]) == ["host"]
    assert facts["answers"]["host"]["answer"] == "no"
    assert facts["answers"]["host"]["reasons"][0]["parent"] == "b.safetensors"
    assert facts["parents"][0]["origin"]
    assert facts["legal_advice"] is False


def test_a_wrong_license_option_is_a_usage_error_and_an_unknown_one_is_not_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(make(tmp_path / "a.safetensors"))

    assert main(["license", path, "--license", "mit"]) == 2
    assert main(["license", path, "--license", "a=free"]) == 6
    assert "There are: agpl-3.0" in capsys.readouterr().err


def test_the_command_asks_all_questions_there_are() -> None:
    assert tuple(USES) == cli.USES
