from collections import Counter

import pytest

from memcard.errors import UsageError
from memcard.training.finetune.order import BucketOrder

BUCKETS = ["a", "b", "a", "a", "b", "a", "c"]


def test_batches_never_mix_buckets_and_an_epoch_sees_everything_as_often_as_it_repeats() -> None:
    order = BucketOrder(BUCKETS, [1, 2, 1, 1, 1, 3, 1], 2, seed=1)
    epochs = [[order.at(e * order.per_epoch + n) for n in range(order.per_epoch)] for e in range(3)]

    for number, batches in enumerate(epochs):
        assert {epoch for epoch, _ in batches} == {number}
        assert all(len({BUCKETS[i] for i in batch}) == 1 for _, batch in batches)
        counts = Counter(i for _, batch in batches for i in batch)
        assert counts == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1, 5: 3, 6: 1}
    assert order.per_epoch == 3 + 2 + 1


def test_a_batch_is_known_from_seed_and_number_alone() -> None:
    first, second = (BucketOrder(BUCKETS, [1] * 7, 2, seed=5) for _ in range(2))
    forward = [first.at(n) for n in range(40)]

    assert [second.at(n) for n in reversed(range(40))] == forward[::-1]
    assert [BucketOrder(BUCKETS, [1] * 7, 2, seed=6).at(n) for n in range(40)] != forward
    assert forward[:5] != forward[5:10]


@pytest.mark.parametrize(("buckets", "batch"), [([], 1), (["a"], 0)])
def test_no_examples_or_no_batch_is_refused(buckets: list[str], batch: int) -> None:
    with pytest.raises(UsageError, match="at least 1 of each"):
        BucketOrder(buckets, [1] * len(buckets), batch)
