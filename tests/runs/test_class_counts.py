"""What is said of classes before training."""

from __future__ import annotations

import pytest

from lightning_vgg.runs.class_counts import are_unbalanced, class_count_lines


def counts(*train: int) -> dict[str, dict[str, int]]:
    """Of classes a, b, c, ...; a tenth of the training images in each other part."""
    names = [chr(ord("a") + number) for number in range(len(train))]
    return {
        part: {name: images // share for name, images in zip(names, train, strict=True)}
        for part, share in (("train", 1), ("val", 10), ("test", 10))
    }


@pytest.mark.parametrize(("train", "unbalanced"), [((450, 450), False), ((174, 183, 160), False), ((160, 100), True)])
def test_classes_of_about_one_size_are_not_worth_a_word(train: tuple[int, ...], unbalanced: bool) -> None:
    assert are_unbalanced(counts(*train)) is unbalanced
    assert bool(class_count_lines(counts(*train), weighted=False, best_by="val_acc")) is unbalanced


def test_the_table_begins_with_the_largest_class_and_ends_with_what_helps() -> None:
    found = class_count_lines(counts(120, 3000, 10), weighted=False, best_by="val_acc")
    assert found == [
        "images    train      val     test",
        "b         3,000      300      300",
        "a           120       12       12",
        "c            10        1        1",
        "The classes are unbalanced. They weigh the same in training with --data.class_weight balanced and in the "
        "choice of the best epoch with --model.best_by val_balanced_acc",
    ]


def test_what_is_set_already_is_not_advised() -> None:
    advice = class_count_lines(counts(90, 10), weighted=True, best_by="val_acc")[-1]
    assert "class_weight" not in advice and "val_balanced_acc" in advice
    advice = class_count_lines(counts(90, 10), weighted=False, best_by="val_macro_f1")[-1]
    assert "class_weight" in advice and "val_balanced_acc" not in advice
    assert len(class_count_lines(counts(90, 10), weighted=True, best_by="val_loss")) == 1 + 2


def test_of_many_classes_the_largest_and_the_smallest_are_shown() -> None:
    found = class_count_lines(counts(*range(26, 0, -1)), weighted=True, best_by="val_loss")
    assert [line[0] for line in found[1:11]] == list("abcdefghij")
    assert found[11] == "... 6 more, in run.json"
    assert [line[0] for line in found[12:]] == list("qrstuvwxyz")
