# Pictures without labels at 224x224: all image files in data/pictures/train, in any subfolders. Those in data/pictures/val
# are held out. If their folders are classes, the features can be compared by their neighbors: set
#   val_dataloader.dataset.with_label=True  val_evaluator.type=KNNAccuracy
# tools/test.py reads classes from data/pictures/test.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
pictures = dict(type='CustomDataset', data_root='data/pictures', with_label=False)
loader = dict(batch_size=128, num_workers=5, collate_fn=dict(type='default_collate'), pin_memory=True)

train_dataloader = dict(
    **loader,
    dataset=dict(**pictures, data_prefix='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    **loader,
    dataset=dict(**pictures, data_prefix='val', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='DistillationLosses')
test_dataloader = dict(
    **loader,
    dataset=dict(type='CustomDataset', data_root='data/pictures', data_prefix='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_evaluator = dict(type='KNNAccuracy')
