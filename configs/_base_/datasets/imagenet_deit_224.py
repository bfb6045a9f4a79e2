# ImageNet-1k at 224x224 as mmpretrain trains DeiT on it: RandAugment, random erasing; here 128 images per GPU.
# DeiT's own code (arXiv:2012.12877) also repeats each image three times with other augmentations (mmpretrain's
# RepeatAugSampler) and drops paths (drop_path_rate=0.1 of the student's backbone). mmpretrain's DeiT-Ti and DeiT-S, and so
# these configs, do neither.
# Mixup and CutMix are batch augmentations: settings of the student. To read the images from another folder:
#   --cfg-options train_dataloader.dataset.data_root=DIR val_dataloader.dataset.data_root=DIR
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
