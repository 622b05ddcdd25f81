"""Tests of guessing: what is guessed, how its odds are followed, what a call costs, and when a guess pays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.gguf.speculation import MOST, Costs, Guesser, Tokens, plan


def tokens(*values: int) -> Tokens:
    return np.array(values, np.int32)


def test_what_followed_before_is_guessed_again() -> None:
    text = tokens(1, 2, 3, 4, 5, 6, 9, 1, 2, 3)
    guesser = Guesser()
    assert guesser.look(text)
    assert guesser.guess(text, 3).tolist() == [4, 5, 6]


def test_the_latest_occurrence_counts() -> None:
    text = tokens(1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3)
    guesser = Guesser()
    guesser.look(text)
    assert guesser.guess(text, 1).tolist() == [5]


def test_text_that_goes_round_in_circles_goes_on_so() -> None:
    text = tokens(7, 1, 2, 1, 2, 1, 2, 1, 2)
    guesser = Guesser()
    assert guesser.look(text)
    assert guesser.guess(text, 7).tolist() == [1, 2, 1, 2, 1, 2, 1]


@pytest.mark.parametrize("text", [(), (1,), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 9, 1, 2), (1, 1, 1)])
def test_without_a_repetition_nothing_is_guessed(text: tuple[int, ...]) -> None:
    assert not Guesser().look(tokens(*text))


def test_odds_rise_while_the_text_repeats_and_fall_when_it_stops() -> None:
    guesser = Guesser()
    text = [1, 2, 3, 4, 5] * 2
    guesser.look(tokens(*text))
    before = guesser.odds
    text += [1, 2, 3, 4, 5] * 3
    guesser.look(tokens(*text))
    risen = guesser.odds
    text += [99]
    assert not guesser.look(tokens(*text))
    assert before < risen
    assert guesser.odds < risen


def test_odds_do_not_depend_on_how_often_one_looks() -> None:
    text = [1, 2, 3, 4, 5, 6] * 2 + [1, 2, 3, 4, 9]
    often, once = Guesser(), Guesser()
    for end in range(6, len(text) + 1):
        often.look(tokens(*text[:end]))
    once.look(tokens(*text[:9]))
    once.look(tokens(*text))
    assert often.odds == once.odds


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, MOST))
def test_a_guess_is_a_continuation_from_an_earlier_occurrence(values: list[int], count: int) -> None:
    text = tokens(*values)
    guesser = Guesser()
    places = [i for i in range(3, len(values)) if values[i - 3 : i] == values[-3:]]
    assert guesser.look(text) == bool(places)
    if places:
        longer = list(values)
        for _ in range(count):
            longer.append(longer[places[-1] + len(longer) - len(values)])
        assert guesser.guess(text, count).tolist() == longer[len(values) :]


def test_costs_follow_a_line() -> None:
    costs = Costs()
    for n in [1, 4, 2, 8, 1, 5] * 20:
        costs.record(n, 0.010 + 0.003 * n)
    for n in (1, 3, 6, 12):
        assert costs.at(n) == pytest.approx(0.010 + 0.003 * n, rel=1e-6)


def test_a_number_of_tokens_that_was_measured_has_its_own_cost() -> None:
    costs = Costs()
    for n, seconds in [(1, 0.012), (2, 0.024), (3, 0.036), (4, 0.040)] * 30:
        costs.record(n, seconds)
    assert costs.at(3) == pytest.approx(0.036, rel=0.02)
    assert costs.at(4) == pytest.approx(0.040, rel=0.02)


def test_costs_are_estimated_until_they_are_measured() -> None:
    costs = Costs()
    assert costs.at(3) == 0
    costs.record(1, 0.010)
    assert costs.at(1) == pytest.approx(0.010)
    assert 0.010 < costs.at(2) < 0.020


def test_costs_move_with_the_machine() -> None:
    costs = Costs()
    for n in [1, 4] * 50:
        costs.record(n, 0.010 * n)
    for n in [1, 4] * 200:
        costs.record(n, 0.002 * n)
    assert costs.at(4) == pytest.approx(0.008, rel=0.05)


def test_what_was_measured_long_ago_is_tried_again() -> None:
    costs = Costs()
    for n in [1, 4] * 20:
        costs.record(n, 0.010 * n)
    dear = costs.at(4)
    for _ in range(1000):
        costs.record(1, 0.010)
    assert costs.at(4) < 0.6 * dear


def test_a_pause_of_the_machine_counts_little() -> None:
    costs = Costs()
    for n in [1, 4] * 50:
        costs.record(n, 0.010)
    costs.record(4, 60.0)
    assert costs.at(1) < 0.012
    assert costs.at(4) < 0.014


def test_another_token_never_costs_less_than_nothing() -> None:
    costs = Costs()
    for n, seconds in [(1, 0.05), (8, 0.01)] * 20:
        costs.record(n, seconds)
    assert costs.at(20) >= costs.at(12) > 0


def flat(base: float, slope: float) -> Costs:
    costs = Costs()
    for n in (1, 8) * 100:
        costs.record(n, base + slope * n)
    return costs


def test_nothing_is_guessed_before_costs_are_known() -> None:
    assert plan(Costs(), 0.99, 8) == 0


def test_a_sequence_that_repeats_itself_guesses_far() -> None:
    assert plan(flat(0.008, 0.001), 0.95, 16) >= 8


def test_small_odds_do_not_pay() -> None:
    assert plan(flat(0.008, 0.004), 0.2, 16) == 0


def test_where_each_token_costs_the_same_nothing_is_guessed() -> None:
    assert plan(flat(0.0, 0.004), 0.99, 16) == 0


def test_what_a_guess_takes_itself_counts() -> None:
    assert plan(flat(0.008, 0.001), 0.8, 16, seconds=0.008) == 0


def test_the_number_of_tokens_that_a_kernel_likes_is_preferred() -> None:
    costs = Costs()
    for n, seconds in [(1, 0.012), (2, 0.024), (3, 0.036), (4, 0.030), (5, 0.045)] * 60:
        costs.record(n, seconds)
    assert plan(costs, 0.9, 4) == 3


def test_the_limit_holds() -> None:
    assert plan(flat(0.020, 0.0001), 0.99, 2) == 2
    assert plan(flat(0.020, 0.0001), 0.99, 0) == 0
    assert plan(flat(0.020, 0.0001), 0.99, -1) == 0


@given(st.floats(0, 1), st.integers(0, 16), st.floats(0, 0.02), st.floats(0.0001, 0.01))
def test_a_plan_never_promises_less_than_no_plan(odds: float, limit: int, base: float, slope: float) -> None:
    costs = flat(base, slope)
    count = plan(costs, odds, limit)
    assert 0 <= count <= limit
    expected = sum(odds**i for i in range(count + 1))
    assert expected / costs.at(1 + count) >= (1 - 1e-9) / costs.at(1)
