"""Pairs are mixed as mmpretrain's Mixup and CutMix mix a batch, with parameters of the same distribution."""

import numpy as np
import pytest
import torch
from builders import NUM_CLASSES, PREPROCESSOR
from mmpretrain.models.utils.batch_augments import CutMix, RandomBatchAugment
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from serkd_mm.teacher_cache import CacheError, ViewPreprocessor
from serkd_mm.teacher_cache.view_mixing import PairMixing, ViewMix, mix_images, mix_scores

AUGMENTS = {
    'Mixup': dict(augments=dict(type='Mixup', alpha=0.8)),
    'CutMix': dict(augments=[dict(type='CutMix', alpha=1.0)]),
    'uncorrected': dict(augments=[dict(type='CutMix', alpha=0.3, correct_lam=False)]),
    'minmax': dict(augments=[dict(type='CutMix', alpha=1.0, cutmix_minmax=[0.2, 0.8])]),
    'both': dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)], probs=[0.3, 0.5]),
}
SWAP = next(
    seed for seed in range(10) if torch.randperm(2, generator=torch.Generator().manual_seed(seed)).tolist() == [1, 0]
)


def pair(seed):
    """Images and one-hot labels of a pair."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 17, 23, generator=generator), torch.eye(NUM_CLASSES)[[seed % 4, (seed + 1) % 4]]


def draw(settings, seed, image=0, mate=1):
    np.random.seed(seed)
    return PairMixing(settings).draw(image, mate, (17, 23))


@pytest.mark.parametrize('name', AUGMENTS)
def test_mixed_pairs_equal_those_of_mmpretrain_bit_for_bit(name):
    seeds = range(40)
    expected = []
    for seed in seeds:
        np.random.seed(seed)
        torch.manual_seed(SWAP)  # The permutation of two images that swaps them.
        settings = {**AUGMENTS[name], 'probs': list(AUGMENTS[name].get('probs', [])) or None}
        expected.append(RandomBatchAugment(**settings)(*pair(seed)))
    images, scores = (torch.cat(parts) for parts in zip(*map(pair, seeds), strict=True))
    mixes = [draw(AUGMENTS[name], seed, *order) for seed in seeds for order in ((0, 1), (1, 0))]
    assert torch.equal(mix_images(images, mixes), torch.cat([images for images, _ in expected]))
    assert torch.equal(mix_scores(scores, mixes), torch.cat([scores for _, scores in expected]))
    changed = [not mix.is_identity for mix in mixes]
    assert 40 < sum(changed) < 80 if name == 'both' else sum(changed) > 70


def test_settings_are_not_changed():
    settings = dict(augments=[dict(type='Mixup', alpha=0.8)], probs=[0.5])
    PairMixing(settings)
    assert settings == dict(augments=[dict(type='Mixup', alpha=0.8)], probs=[0.5])


def test_distribution_of_what_is_drawn():
    np.random.seed(0)
    mixing = PairMixing(AUGMENTS['both'])
    mixes = [mixing.draw(0, 1, (224, 224)) for _ in range(20000)]
    cut = [mix for mix in mixes if mix.pixel_share == 1 and not mix.is_identity]
    mixed = np.array([mix.pixel_share for mix in mixes if mix.pixel_share < 1])
    assert len(mixed) / len(mixes) == pytest.approx(0.3, abs=0.015)
    assert len(cut) / len(mixes) == pytest.approx(0.5, abs=0.015)
    # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 * 2.6).
    assert mixed.mean() == pytest.approx(0.5, abs=0.02)
    assert mixed.var() == pytest.approx(1 / 10.4, abs=0.005)
    for top, bottom, left, right in (mix.box for mix in cut):
        assert 0 <= top <= bottom <= 224
        assert 0 <= left <= right <= 224
    area = np.array([(bottom - top) * (right - left) / 224**2 for top, bottom, left, right in (mix.box for mix in cut)])
    assert area + [mix.label_share for mix in cut] == pytest.approx(1)
    np.random.seed(1)
    augment = CutMix(alpha=1.0)
    shares = [augment.cutmix_bbox_and_lam((224, 224), np.random.beta(1, 1))[1] for _ in range(10000)]
    assert area.mean() == pytest.approx(1 - np.mean(shares), abs=0.01)


def preprocess(mixes, training=True, labels=True, **settings):
    """Preprocess a batch of the images of ``pair``, one after the other."""
    images = torch.randint(0, 256, (len(mixes), 3, 17, 23), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    samples = [DataSample() for _ in mixes]
    for number, (sample, mix) in enumerate(zip(samples, mixes, strict=True)):
        if labels:
            sample.set_gt_label(number % NUM_CLASSES)
        if mix is not None:
            sample.set_field(mix, 'view_mix', field_type='metainfo')
    preprocessor = MODELS.build({'type': 'ViewPreprocessor', **PREPROCESSOR, 'to_onehot': True, **settings})
    batch = preprocessor(dict(inputs=images, data_samples=samples), training)
    plain = MODELS.build({**PREPROCESSOR, 'type': 'ClsDataPreprocessor', 'to_onehot': True})
    return batch, plain(dict(inputs=images, data_samples=[DataSample().set_gt_label(i % 4) for i in range(len(mixes))]))


PAIRS = [
    ViewMix(5, 3, 0.3, 0.3),
    ViewMix(3, 5, 0.3, 0.3),
    ViewMix(1, 2, 1.0, 0.5, (2, 9, 3, 20)),
    ViewMix(2, 1, 1.0, 0.5, (2, 9, 3, 20)),
]


def test_preprocessor_mixes_pairs_and_their_labels_in_training():
    batch, plain = preprocess(PAIRS)
    assert torch.equal(batch['inputs'], mix_images(plain['inputs'], PAIRS))
    scores = torch.stack([sample.gt_score for sample in batch['data_samples']])
    assert torch.equal(scores, mix_scores(torch.eye(4), PAIRS))
    assert scores.sum(1).tolist() == [1] * 4
    assert torch.equal(batch['inputs'][2, :, 2:9, 3:20], plain['inputs'][3, :, 2:9, 3:20])
    assert torch.equal(batch['inputs'][2, :, 9:], plain['inputs'][2, :, 9:])


@pytest.mark.parametrize('case', ['evaluation', 'without views', 'own mate'])
def test_preprocessor_leaves_other_images_alone(case):
    mixes = {'without views': [None] * 4, 'own mate': [ViewMix(1, 1)] * 4}.get(case, PAIRS)
    batch, plain = preprocess(mixes, training=case != 'evaluation')
    assert torch.equal(batch['inputs'], plain['inputs'])
    for sample, other in zip(batch['data_samples'], plain['data_samples'], strict=True):
        assert torch.equal(sample.gt_score.long(), other.gt_score)
        assert sample.gt_score.is_floating_point() == (case == 'own mate')  # Losses read soft labels.


def test_images_without_labels_are_mixed():
    batch, plain = preprocess(PAIRS, labels=False)
    assert torch.equal(batch['inputs'], mix_images(plain['inputs'], PAIRS))


@pytest.mark.parametrize('mixes', [PAIRS[:3], PAIRS[1:3], [*PAIRS[:2], None, None], [PAIRS[0], PAIRS[0]]])
def test_batch_without_pairs_is_reported(mixes):
    with pytest.raises(
        CacheError, match=r"batch_size must be even, and train_dataloader.sampler=dict\(type='ViewSampler'\)"
    ):
        preprocess(mixes)


def test_labels_that_cannot_be_mixed_are_reported():
    with pytest.raises(CacheError, match=r'Set data_preprocessor.to_onehot=True'):
        preprocess(PAIRS, to_onehot=False)


def test_batch_augments_are_refused_by_name():
    settings = dict(augments=[dict(type='Mixup', alpha=0.8)])
    with pytest.raises(CacheError, match=r'train_cfg.augments .*RepeatableViews'):
        MODELS.build(dict(type='ViewPreprocessor', batch_augments=settings, **PREPROCESSOR))
    MODELS.build(dict(type='ViewPreprocessor', batch_augments=dict(), **PREPROCESSOR))


def test_batch_augments_that_a_hook_sets_are_refused():
    preprocessor = MODELS.build({**PREPROCESSOR, 'type': 'ViewPreprocessor', 'to_onehot': True})
    preprocessor.batch_augments = RandomBatchAugment(dict(type='Mixup', alpha=0.8))  # As SwitchRecipeHook does.
    with pytest.raises(CacheError, match='they would mix the images once more'):
        preprocessor({'inputs': torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 'data_samples': None}, training=True)


def test_mates_of_different_sizes_are_refused():
    preprocessor = MODELS.build({**PREPROCESSOR, 'type': 'ViewPreprocessor', 'to_onehot': True})
    images = [torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 9, dtype=torch.uint8)]
    samples = [DataSample().set_gt_label(0) for _ in images]
    assert preprocessor(dict(inputs=images, data_samples=samples), training=True)['inputs'].shape == (2, 3, 8, 9)
    for sample, mix in zip(samples, PAIRS, strict=False):
        sample.set_field(mix, 'view_mix', field_type='metainfo')
    with pytest.raises(CacheError, match=r'have the shapes \(3, 8, 8\) and \(3, 8, 9\) after the pipeline'):
        preprocessor(dict(inputs=images, data_samples=samples), training=True)


def test_padding_is_refused():
    with pytest.raises(CacheError, match=r'pad_size_divisor=32: no cache records'):
        ViewPreprocessor(pad_size_divisor=32)
