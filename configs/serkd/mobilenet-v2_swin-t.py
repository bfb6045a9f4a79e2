# Any pair of mmpretrain's zoo, here a CNN that learns from a transformer: two names are enough, the taps are found.
_base_ = './_base_/any_pair.py'
model = dict(student=dict(model='mobilenet-v2_8xb32_in1k'), teacher=dict(model='swin-tiny_16xb64_in1k'))
