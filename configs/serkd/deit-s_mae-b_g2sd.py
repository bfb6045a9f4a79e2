# G2SD (arXiv:2302.14771), second stage: half of the labels, half of the class predicted by the teacher, 200 epochs with
# layer-wise learning rates, from the student of the first stage. That stage is not in this package: the file is the student
# that the authors publish (pengzhiliang/G2SD), converted to mmpretrain's names of a DistilledVisionTransformer.
_base_ = './deit-ti_mae-b_deit-hard.py'
model = dict(
    student=dict(
        model=dict(backbone=dict(arch='deit-small'), head=dict(in_channels=384)),
        checkpoint='checkpoints/g2sd_first-stage_vit-s.pth',
    )
)
optim_wrapper = dict(
    optimizer=dict(lr=4e-3),  # 1e-3 for each 256 images
    constructor='LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.75),
    clip_grad=None,
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=5, end=200, T_max=195, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=200)
