# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The ring of samples, against a dictionary that is searched by brute force."""

from hypothesis import given, settings
from hypothesis import strategies as st

from policy_node.samples import Sample, SampleRing

STAMPS = st.integers(-30, 30)  # few, so that stamps often repeat
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), STAMPS),
        st.tuples(st.sampled_from(["discard_before", "discard_after"]), STAMPS),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=60,
)


def filled(stamps: list[int], length: int) -> SampleRing:
    ring = SampleRing(length)
    for stamp in stamps:
        ring.append(stamp, f"message of {stamp}")
    return ring


def drain(ring: SampleRing) -> list[Sample]:
    """Take out all samples in their order."""
    samples = []
    while len(ring):
        samples.append(ring.nearest(-(2**62)))
        ring.discard_before(samples[-1].stamp_ns + 1)
    return samples


@settings(deadline=None, max_examples=300)
@given(OPERATIONS, st.integers(1, 6))
def test_ring_equals_a_sorted_dictionary(operations, length):
    """Late samples take their place, equal stamps replace, the oldest goes first."""
    ring, model, emptied_by_discard = SampleRing(length), {}, False
    for number, (operation, stamp) in enumerate(operations):
        if operation == "append":
            ring.append(stamp, number)
            model[stamp] = number
            if len(model) > length:
                del model[min(model)]
            emptied_by_discard = False
        elif operation == "discard_before":
            ring.discard_before(stamp)
            model = {kept: message for kept, message in model.items() if kept >= stamp}
        elif operation == "discard_after":
            kept = {kept: message for kept, message in model.items() if kept <= stamp}
            if kept != model:
                emptied_by_discard = not kept
            model = kept
            assert ring.discard_after(stamp) is emptied_by_discard
        else:
            ring.clear()
            model, emptied_by_discard = {}, False
        assert len(ring) == len(model)
        if model:
            assert ring.newest_stamp_ns == max(model)
    assert drain(ring) == [Sample(stamp, model[stamp]) for stamp in sorted(model)]


@settings(deadline=None, max_examples=300)
@given(st.lists(STAMPS, min_size=1, max_size=20), STAMPS, st.integers(1, 20))
def test_nearest_equals_brute_force(stamps, wanted, length):
    ring = filled(stamps, length)
    kept = sorted(set(stamps))
    # What a full ring drops depends on the order of arrival, so ask the ring itself.
    if len(kept) > length:
        kept = [sample.stamp_ns for sample in drain(filled(stamps, length))]
    best = min(kept, key=lambda stamp: (abs(stamp - wanted), -stamp))
    assert ring.nearest(wanted) == Sample(best, f"message of {best}")


def test_a_full_ring_keeps_the_newest_stamps_whatever_the_order_of_arrival():
    assert [sample.stamp_ns for sample in drain(filled([5, 1, 4, 2, 3, 0], length=3))] == [3, 4, 5]


def test_an_equal_stamp_replaces_the_message():
    ring = SampleRing(3)
    for stamp, message in ((1, "a"), (2, "b"), (1, "c"), (2, "d")):
        ring.append(stamp, message)
    assert drain(ring) == [Sample(1, "c"), Sample(2, "d")]


def test_a_ring_emptied_of_future_samples_says_so_until_another_arrives():
    ring = filled([100], length=3)
    assert ring.discard_after(10)
    assert ring.discard_after(10)
    ring.append(5, "now")
    assert not ring.discard_after(10)
    ring.append(100, "ahead")
    assert not ring.discard_after(10)  # a usable one is left
    assert len(ring) == 1
