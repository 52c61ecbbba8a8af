"""What somebody sees who runs a command for the first time, or with the wrong file."""

from support.commands import microgpt, refusal

HINT = "--vocab data uses the characters of the data"


def test_names_with_other_characters_are_told_of_the_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "names.txt"
    words = "train --data names.txt --steps 1"
    data.write_text("emma\nNew York\n")
    (left_out,) = [line for line in microgpt(f"{words} --out a.safetensors").lines if "left out" in line]
    assert left_out.endswith(f"(first: line 2: 'New York'); {HINT}")
    data.write_text("日本\nNew York\nZoë\n")
    assert refusal(f"{words} --out b.safetensors").endswith(HINT)
    done = microgpt(f"{words} --out b.safetensors --vocab data")
    assert (done.code, HINT in done.err) == (0, False)
    data.write_text(f"emma\n{'a' * 40}\n")
    done = microgpt(f"{words} --out c.safetensors")  # too long, whatever the vocabulary
    assert (done.code, HINT in done.err) == (0, False)
