"""SQuAD's scores, by hand from their definition."""

import pytest

from hftl.text.squad import compare_answers, normalised_answer, squad_scores


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("a  man,\nan island; the end", "man island end"),
        ("theory of anarchy", "theory of anarchy"),  # articles are whole words
        ("U.S.A.", "usa"),
        ("A-B", "ab"),  # punctuation goes first and leaves nothing behind
        ("the", ""),
        ("24\u201330", "24\u201330"),  # a dash that is not ASCII's stays
    ],
)
def test_answers_are_compared_without_case_articles_and_punctuation(text: str, plain: str) -> None:
    assert normalised_answer(text) == plain


@pytest.mark.parametrize(
    ("given", "gold", "f1", "exact"),
    [
        ("Denver Broncos", ["Denver Broncos", "The Broncos"], 1.0, 1),
        ("Broncos", ["Denver Broncos", "the Denver Broncos"], 2 / 3, 0),  # 1 of 1 and 1 of 2
        ("the Broncos of Denver", ["Denver Broncos"], 0.8, 0),  # 2 of 3 and 2 of 2
        ("to be or not to be", ["to be"], 0.5, 0),  # each word counts as often as both have it: 2 of 6, 2 of 2
        ("Carolina", ["Denver Broncos"], 0.0, 0),
        ("", ["Denver Broncos"], 0.0, 0),
        ("Denver", [], 0.0, 0),
        ("", [], 1.0, 1),
        ("the", [], 1.0, 1),  # nothing is left of it
        ("one", ["two", "one two"], 2 / 3, 0),
    ],
)
def test_one_answer(given: str, gold: list[str], f1: float, exact: float) -> None:
    assert compare_answers(given, gold) == (pytest.approx(f1), exact)


def test_questions_with_and_without_an_answer_apart() -> None:
    predictions = ["Denver Broncos", "Broncos", "", "something", ""]
    references = [["the Denver Broncos"], ["Denver Broncos"], ["Carolina"], [], []]
    found = squad_scores(predictions, references)
    assert found == pytest.approx(
        {
            "f1": (1 + 2 / 3 + 0 + 0 + 1) / 5,
            "exact_match": 2 / 5,
            "has_answer_f1": (1 + 2 / 3 + 0) / 3,
            "has_answer_exact_match": 1 / 3,
            "no_answer_accuracy": 1 / 2,
        }
    )
    assert squad_scores(predictions[:2], references[:2]) == pytest.approx({"f1": 5 / 6, "exact_match": 1 / 2})
