"""Files from which commands make results: two models, pairs to patch, and a training log."""

from support.commands import microgpt
from support.page_files import write_small_port

from microgpt_trace import init, save


def write_results_and_port(folder, qwen2):
    """Write the result files, a link to a qwen2 folder, and the dump of a faulty port."""
    write_result_files(folder)
    (folder / "qwen2").symlink_to(qwen2)
    write_small_port(folder / "port")


def write_result_files(folder):
    """Write one.safetensors, two.safetensors, pairs.txt, names.txt, t.safetensors and its log t.jsonl."""
    save(init(seed=1), folder / "one.safetensors")
    save(init(seed=2), folder / "two.safetensors")
    (folder / "pairs.txt").write_text("emma\temmy\tm\ty\nanna\tanny\tm\ty\n")
    (folder / "names.txt").write_text("emma\nanna\nalma\n" * 4)
    train = "train --data names.txt --steps 20 --out t.safetensors --log t.jsonl --trace-every 5"
    assert microgpt(train, cwd=folder).code == 0
