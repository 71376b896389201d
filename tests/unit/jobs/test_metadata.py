import json

from memcard.jobs._metadata import modelspec, training


def test_modelspec_entries_lose_their_prefix_and_pictures_are_left_out() -> None:
    metadata = {
        "modelspec.title": "Neon",
        "modelspec.license": "",
        "modelspec.thumbnail": "data:image/jpeg;base64," + "A" * 5000,
        "format": "pt",
    }

    assert modelspec(metadata) == {"title": "Neon"}


def test_what_kohya_noted_comes_under_readable_names() -> None:
    metadata = {
        "ss_network_dim": "16",
        "ss_network_alpha": "8.0",
        "ss_clip_skip": "None",
        "ss_sd_model_name": "v1-5.safetensors",
        "ss_session_id": "3",
    }

    assert training(metadata) == {"base": "v1-5.safetensors", "rank": "16", "alpha": "8.0"}


def test_tags_are_summed_over_the_folders_and_the_most_frequent_come_first() -> None:
    frequency = {"10_cat": {"cat": 10, " night": 2}, "5_more": {"night": 9, "cat": 5}}

    tags = training({"ss_tag_frequency": json.dumps(frequency)})["tags"]

    assert list(tags.items()) == [("cat", 15), ("night", 11)]


def test_broken_tags_are_no_reason_to_fail() -> None:
    assert training({"ss_tag_frequency": "[" * 100_000}) == {}
    assert training({"ss_tag_frequency": '["a"]'}) == {}
    assert training({"ss_tag_frequency": '{"a": {"b": "many"}}'}) == {}
