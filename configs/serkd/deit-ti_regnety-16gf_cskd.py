# CSKD-Ti (arXiv:2307.08500; Tables I and IV): the authors' teacher, DeiT's RegNetY-16GF, which has 7x7 positions.
_base_ = './deit-ti_mae-b_cskd.py'
taps = dict(logits='model', dense_logits='model.s4 | model.head.fc')
model = dict(
    teacher=dict(_delete_=True, model='timm:regnety_160.deit_in1k', checkpoint=True, taps=taps, channels_last=True),
    views=dict(dense=dict(merger=dict(_delete_=True, type='AvgPoolMerger', grid=7))),
)
