# ImageNet-1k at 224x224 as DeiT trains on it: mmpretrain's pipeline (RandAugment, random erasing), 128 images per GPU.
# Mixup and CutMix are batch augmentations: settings of the student. To read the images from another folder:
#   --cfg-options train_dataloader.dataset.data_root=DIR val_dataloader.dataset.data_root=DIR
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
