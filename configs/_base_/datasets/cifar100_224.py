# CIFAR-100 resized to 224x224, for fine-tuning; settings as for CIFAR-10.
_base_ = './cifar10_224.py'

data_preprocessor = dict(num_classes=100)
train_dataloader = dict(dataset=dict(type='CIFAR100', data_root='data/cifar100'))
val_dataloader = dict(dataset=dict(type='CIFAR100', data_root='data/cifar100'))
test_dataloader = val_dataloader
