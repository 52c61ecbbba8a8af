"""microgpt inspect from the shell: the documents of both families against the schema that it prints."""

import pytest
from support.commands import microgpt, refused
from support.documents import valid

from microgpt_trace import load


@pytest.fixture(scope="module")
def decoder(decoder_folder):
    return decoder_folder("llama_gqa")


def test_a_document_has_every_parameter_with_its_statistics():
    document = valid(microgpt("inspect", "--json").out, "inspect")
    assert [row["name"] for row in document["parameters"]][:3] == ["wte", "wpe", "lm_head"]
    assert sum(row["stats"]["count"] for row in document["parameters"]) == 4192
    assert document["model"]["parameters"] == 4192


@pytest.mark.parametrize("options", [(), ("--stats",), ("--metadata",), ("--stats", "--filter", "*attn*")])
def test_a_document_has_the_tensors_as_they_are_stored(decoder, options):
    document = valid(microgpt("inspect", decoder, *options, "--json").out, "inspect")
    tensors = load(decoder).tensors
    rows = {row["name"]: row for row in document["parameters"]}
    assert set(rows) == {name for name in tensors if "--filter" not in options or "attn" in name}
    for name, row in rows.items():
        assert (row["stored_as"], row["bytes"]) == (tensors[name].name, tensors[name].data.size)
        assert (row["stats"] is not None) == ("--stats" in options)
    assert (document["metadata"] is not None) == ("--metadata" in options)


def test_options_of_stored_tensors_are_refused_for_a_microgpt():
    refused(microgpt("inspect", "--stats"), "--stats is for a production model")
