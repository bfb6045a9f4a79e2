# A patient and consistent teacher (arXiv:2106.05237): no labels, the KL of the logits at tau 1 alone, Mixup of all images,
# and 1,200 epochs with cosine decay. Student and teacher see the same crop, as everywhere.
_base_ = './resnet18_resnet101_kd.py'
student = dict(train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)]))
model = dict(student=dict(model=student), losses=dict(loss_cls=None))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, end=1200, T_max=1195, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=1200)
