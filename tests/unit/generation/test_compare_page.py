"""The page: one file, no network, nothing a prompt could break."""

import base64
import io
import json
import re

from memcard.generation.compare_page import GENERATOR, write

FACTS = {
    "memcard": "0.1",
    "title": "a </script><b> & 'cat'",
    "fixed": ["10 steps"],
    "axes": [{"name": "cfg", "labels": ["CFG 1", "CFG 3"]}],
    "x": 0,
    "y": None,
    "pages": [],
    "cells": [],
}


def written(**facts: object) -> str:
    file = io.BytesIO()
    write(file, {**FACTS, **facts}, [b"one", b"two"])
    return file.getvalue().decode()


def test_pictures_are_in_the_page() -> None:
    html = written()

    for data in (b"one", b"two"):
        assert f'"{base64.b64encode(data).decode()}",\n' in html
    assert GENERATOR in html[:2000]


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = written()

    assert "default-src 'none'" in html
    assert re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", html) == []
    assert "http:" not in html
    assert "https:" not in html
    assert "fetch(" not in html


def test_a_prompt_cannot_end_the_script_or_the_title() -> None:
    html = written()

    assert html.count("</script>") == 1
    assert "<title>a &lt;/script&gt;&lt;b&gt; &amp;" in html
    facts = re.search(r"const FACTS=(.*);\n", html)
    assert facts is not None
    assert json.loads(facts[1])["title"] == FACTS["title"]


def test_half_a_character_does_not_stop_it() -> None:
    assert "memcard compare" in written(title="broken \ud800 text")


def test_the_same_facts_give_the_same_bytes() -> None:
    assert written() == written()
