# CIFAR-100 and the schedule of the CRD benchmark (arXiv:1910.10699): 240 epochs, batch 64 on one GPU, SGD 0.05 divided by 10
# after 150, 180 and 210 epochs, weight decay 5e-4 on all weights. mmpretrain downloads the data.
_base_ = ['mmpretrain::_base_/datasets/cifar100_bs16.py', '../../_base_/runtime.py']

data_preprocessor = dict(
    num_classes=100, mean=[129.3105, 124.1085, 112.404], std=[68.2125, 65.4075, 70.4055], to_rgb=False
)  # mmpretrain loads RGB images.
train_dataloader = dict(batch_size=64, num_workers=4)
val_dataloader = dict(batch_size=100)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[150, 180, 210], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=240, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(checkpoint=dict(interval=10))
