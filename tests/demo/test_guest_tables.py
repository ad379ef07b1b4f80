from hashlib import sha256

from pipeline.demo.guest_tables import CODE_PIECES, TEXT_PIECES, code_table, text_table


def test_tables_are_the_same_everywhere() -> None:
    assert sha256(text_table().tobytes() + code_table().tobytes()).hexdigest() == (
        "4877726049af8fb2fe9fc4803d209bcaa89e5ea60fdf635373ed46429b16df88"
    )


def test_text_is_printable_ascii() -> None:
    text = text_table().tobytes().decode("ascii")
    assert len(text) == TEXT_PIECES * 8
    assert text.replace("\n", "").isprintable()


def test_bits_that_vary_are_not_fixed_as_well() -> None:
    fixed, varying = code_table().T
    assert len(fixed) == CODE_PIECES
    assert not (fixed & varying).any()
    assert (fixed | varying).any()
