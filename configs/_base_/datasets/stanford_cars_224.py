# Stanford Cars at 224x224, for fine-tuning, in data/stanfordcars in the layout of mmpretrain's StanfordCars.
# From class numbers, label smoothing would make one-hot labels by waiting for the GPU.
data_preprocessor = dict(
    num_classes=196, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True, to_onehot=True
)
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
dataset = dict(type='StanfordCars', data_root='data/stanfordcars')

train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(**dataset, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(**dataset, split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
