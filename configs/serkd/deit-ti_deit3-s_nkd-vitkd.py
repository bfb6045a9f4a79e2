# NKD + ViTKD (arXiv:2209.02432) as the authors run it: DeiT III-S teaches DeiT-Ti without a distillation token. Their last
# tokens are those after the final norm, and NKD's gamma is 1 here.
_base_ = './deit-ti_mae-b_vitkd.py'
taps = dict(patches='backbone.ln1', logits='head')
model = dict(
    student=dict(model=dict(backbone=dict(type='VisionTransformer'), head=dict(type='VisionTransformerClsHead')), taps=taps),
    teacher=dict(model='deit3-small-p16_in21k-pre_3rdparty_in1k', taps=taps),
    losses=dict(loss_kd=None, loss_nkd=dict(type='NKDLoss', on='logits', gamma=1.0, tau=1.0)),
)
