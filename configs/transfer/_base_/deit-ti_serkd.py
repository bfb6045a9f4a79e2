# Fine-tuning of a DeiT-Ti that was distilled by SeRKD: the backbone of the distilled checkpoint, and a new head whose two
# classifiers both learn the labels. For another checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = ['../../_base_/schedules/finetune_sgd_bs512_100e.py', '../../_base_/runtime.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='DistilledVisionTransformer',
        arch='deit-tiny',
        img_size=224,
        patch_size=16,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/deit-ti_mae-b/epoch_300.pth', prefix='backbone'),
    ),
    head=dict(
        type='DeiTDistilledClsHead',
        num_classes=10,
        in_channels=192,
        distilled_training=False,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)
