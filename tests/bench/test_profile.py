"""Where the time goes: shares add up to a whole, names fall into kinds."""

from bert.bench.documents import packed
from bert.bench.ours import OurSteps, steps_of
from bert.bench.profile import kind_of, profile_table, times_table
from bert.pretraining.stream import split_batch

from .synthetic import LENGTH, RECIPE, TEXT


def test_times_are_a_step_and_shares_of_the_whole():
    times = {"aten::mm": 6000.0, "aten::_fused_adamw_": 3000.0, "odd": 1000.0}
    table = times_table(times, {"aten::mm": 4, "aten::_fused_adamw_": 2, "odd": 2}, steps=2, rows=2)
    lines = table.splitlines()[2:]
    assert lines[0] == "| **matrix products** | 3.00 | 60.0% | |"
    assert "| **optimiser** | 1.50 | 30.0% | |" in lines
    assert "| aten::mm | 3.00 | 60.0% | 2 |" in lines
    assert not any(line.startswith("| odd") for line in lines)


def test_kernels_fall_into_kinds():
    for name, kind in (
        ("nvjet_tst_128x256", "matrix products"),
        ("flash_fwd_splitkv", "attention"),
        ("triton_red_fused_add_native_layer_norm", "compiled loops"),
        ("Memcpy HtoD", "copies"),
        ("aten::embedding", "the rest"),
    ):
        assert kind_of(name) == kind


def test_a_step_is_profiled_with_its_matrix_products():
    split = split_batch(8, 4, 1)
    batches = steps_of(packed(TEXT, LENGTH, 8, RECIPE.masking, 0), split, 0, 1)[0]
    assert "| **matrix products** |" in profile_table(OurSteps(RECIPE, split, False), batches, steps=1)
