# LEAP (arXiv:2606.19483) without labels, as its authors: ViT-S/14 learns the tokens of a block of DINOv2 ViT-B/14,
# which moves from shallow to deep; the teacher stops there. The authors take 'vit-giant-p14_dinov2-pre_3rdparty' and the
# pictures of ImageNet.
_base_ = [
    '../_base_/datasets/pictures_224.py',
    '../_base_/schedules/adamw_bs1024_300e.py',
    '../_base_/runtime.py',
]
view = dict(tap='patches', merger=dict(type='IdentityMerger'))
model = dict(
    type='RelationDistiller',
    student=dict(
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='VisionTransformer', arch='dinov2-small', img_size=224, patch_size=14),
            train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)]),
        ),
        taps=dict(patches='backbone.ln1'),
    ),
    teacher=dict(
        model='vit-base-p14_dinov2-pre_3rdparty',
        checkpoint=True,
        taps=dict(patches='backbone.layers[0] | backbone.ln1'),
    ),
    views=dict(
        tokens=dict(**view, tokenizer=dict(type='PatchTokenizer')),
        class_token=dict(**view, tokenizer=dict(type='ClassTokenizer')),
    ),
    losses=dict(
        loss_cls=None,
        loss_feat=dict(type='FeatureL2Loss', on='tokens', loss_weight=1.0),
        loss_token=dict(type='FeatureL2Loss', on='class_token', loss_weight=0.05),
    ),
)

block = 'backbone.layers[{}] | backbone.ln1'
curriculum = dict(type='TapCurriculumHook', tap='patches', paths=block, loss='loss_feat', threshold=0.8, max_epochs=5)
custom_hooks = [*_base_.custom_hooks, curriculum]

# The authors train for 100 epochs too, but by LARS.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=100, T_max=95, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=100)
