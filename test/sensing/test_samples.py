# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The ring of samples, against a list that is searched by brute force."""

from hypothesis import given
from hypothesis import strategies as st

from policy_node.sensing.samples import Sample, SampleRing

STAMPS = st.integers(-30, 30)  # few, so that stamps often repeat
MAX_AHEAD_NS = 5
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), STAMPS),
        st.tuples(st.sampled_from(["discard_before", "refuse_ahead", "advance_to"]), STAMPS),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=60,
)


def filled(stamps: list[int], length: int) -> SampleRing:
    ring = SampleRing(length)
    for stamp in stamps:
        ring.append(stamp, f"message of {stamp}")
    return ring


def nearest(stamps: list[int], wanted: int) -> int:
    return min(stamps, key=lambda stamp: (abs(stamp - wanted), -stamp))


@given(OPERATIONS, st.integers(1, 6))
def test_ring_equals_a_list_in_the_order_of_arrival(operations, length):
    """What arrives last is the newest: it replaces equal and later stamps; the oldest goes first."""
    ring, model, first_seen, is_ahead = SampleRing(length), {}, {}, False
    for number, (operation, stamp) in enumerate(operations):
        if operation == "append":
            ring.append(stamp, number)
            model = {kept: message for kept, message in model.items() if kept < stamp}
            model[stamp] = number
            if len(model) > length:
                del model[min(model)]
            is_ahead = False
        elif operation == "discard_before":
            ring.discard_before(stamp)
            model = {kept: message for kept, message in model.items() if kept >= stamp}
        elif operation == "advance_to" and model:
            chosen = nearest(list(model), stamp)
            assert ring.advance_to(stamp) == Sample(chosen, model[chosen])
            model = {kept: message for kept, message in model.items() if kept >= chosen}
        elif operation == "refuse_ahead":
            kept = {kept: message for kept, message in model.items() if kept <= stamp + MAX_AHEAD_NS}
            is_ahead |= kept != model
            assert ring.refuse_ahead(stamp, MAX_AHEAD_NS) == len(model) - len(kept)
            model = kept
            first_seen = {each: first_seen.get(each, stamp) for each in model if each in first_seen or each > stamp}
        elif operation == "clear":
            ring.clear()
            model, is_ahead = {}, False
        first_seen = {each: seen for each, seen in first_seen.items() if each in model}
        assert ring.stamps == sorted(model)
        assert ring.is_ahead is is_ahead
        assert [ring.counts_from(each) for each in ring.stamps] == [first_seen.get(each, each) for each in ring.stamps]


@given(st.lists(STAMPS, min_size=1, max_size=20, unique=True), STAMPS, st.integers(1, 20))
def test_the_nearest_sample_equals_brute_force(stamps, wanted, length):
    stamps = sorted(stamps)
    best = nearest(stamps[-length:], wanted)
    assert filled(stamps, length).advance_to(wanted) == Sample(best, f"message of {best}")


def test_an_equal_stamp_replaces_the_message_but_makes_it_no_newer():
    ring = filled([10], length=3)
    assert ring.refuse_ahead(7, MAX_AHEAD_NS) == 0
    ring.append(10, "sent again")
    ring.refuse_ahead(9, MAX_AHEAD_NS)
    assert ring.advance_to(10) == Sample(10, "sent again")
    assert ring.counts_from(10) == 7


def test_a_clock_that_was_set_back_leaves_nothing_of_before():
    ring = filled([100, 110, 120], length=3)
    ring.append(105, "after")
    assert ring.stamps == [100, 105]
    ring.append(3, "long before")
    assert ring.stamps == [3]


def test_a_ring_emptied_of_future_samples_says_so_until_another_arrives():
    ring = filled([100], length=3)
    assert ring.refuse_ahead(10, MAX_AHEAD_NS) == 1
    assert ring.refuse_ahead(10, MAX_AHEAD_NS) == 0
    assert ring.is_ahead
    ring.append(5, "now")
    assert not ring.is_ahead
    ring.append(100, "ahead")
    assert ring.refuse_ahead(10, MAX_AHEAD_NS) == 1
    assert ring.stamps == [5]  # a usable one is left
